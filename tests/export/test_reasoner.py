import json
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from export import llama, reasoner
from service.engine.reasoner.decoder import Decoder
from tamis.building import is_being_built
from tamis.bundle import BundleError
from tamis.cli import main
from tamis.reasoner import bundle as bundles
from tests.reasoners import write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    write_base(folder)
    return folder


def expected(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def ids(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 1000, n).tolist()


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory) -> Decoder:
    out = tmp_path_factory.mktemp("out") / "bundle"
    reasoner.build(out, str(base), precision="fp32", positions=256, progress=False)
    bundle = bundles.load(out)
    return Decoder(bundle.graph, bundle.positions, threads=1)


def test_the_graph_says_what_the_model_says_in_any_pieces(base, plain):
    model = write_base(base)
    text = ids(60)
    wanted = expected(model, text)
    plain.rewind(0)
    np.testing.assert_allclose(plain.read(text, range(60)), wanted, atol=2e-4)
    plain.rewind(0)
    for piece in (text[:1], text[1:30], text[30:31], text[31:]):
        found = plain.read(piece)
    np.testing.assert_allclose(found[0], wanted[-1], atol=2e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_bundle_is_complete_and_says_how_close_it_is(base, tmp_path, bits):
    out = tmp_path / "deep" / "bundle"
    manifest = reasoner.build(out, str(base), precision=f"int{bits}", positions=512, progress=False)
    bundle = bundles.load(out)
    assert bundle.positions == 512
    assert bundle.form.order == "verdict-first"
    assert not bundle.calibration.fitted
    limit = manifest["parity"]["std_of_logits"] * {4: 0.5, 8: 0.05}[bits]  # random weights are hard
    assert manifest["parity"]["mean_abs_error"] < limit
    kinds = [node.op_type for node in onnx.load(bundle.graph, load_external_data=False).graph.node]
    assert kinds.count("MatMulNBits") == 2 * 5 + 1
    assert "MatMul" not in kinds
    assert {path.name for path in out.parent.iterdir()} == {"bundle", ".bundle.lock"}
    (out / "weights.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match="sha256"):
        bundles.load(out)


def adapter(folder: Path, **config: object) -> Path:
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    torch.manual_seed(3)
    parts = {}
    for layer in (0, 1):
        stem = f"base_model.model.model.layers.{layer}.mlp.up_proj"
        parts[f"{stem}.lora_A.weight"] = torch.randn(2, 64)
        parts[f"{stem}.lora_B.weight"] = torch.ones(96, 2)
    save_file(parts, folder / "adapter_model.safetensors")
    (folder / "format.json").write_text(json.dumps({"order": "reason-first", "version": 1}))
    return folder


def test_a_bundle_is_made_anew_only_of_something_else(base, tmp_path, monkeypatch):
    folder, out = adapter(tmp_path / "a"), tmp_path / "bundle"

    def made(given: Path | None = folder, precision: str = "int8", positions: int = 256) -> int:
        reasoner.build(
            *(out, str(base), given),
            precision=precision,
            positions=positions,
            progress=False,
            if_needed=True,
        )
        return out.stat().st_ino

    first = made()
    assert made() == first
    for change in ({"given": None}, {"precision": "int4"}, {"positions": 300}):
        other = made(**change)
        assert other != first
        first = made()
        assert first != other
    monkeypatch.setattr(reasoner, "LAYOUT", reasoner.LAYOUT + 1)
    assert made() != first
    first = made()
    (folder / "calibration.json").write_text(json.dumps({"bias": 0.5}))
    assert made() != first


def test_who_waited_for_a_build_does_not_repeat_it(base, tmp_path, monkeypatch):
    out, write, written = tmp_path / "bundle", reasoner._write, []

    def slowly(*args: object) -> object:
        written.append(args)
        if len(written) == 1:  # a second one comes while the first is at it
            other.start()
            assert is_being_built(out)
        return write(*args)

    def build() -> None:
        reasoner.build(out, str(base), positions=256, progress=False, if_needed=True)

    monkeypatch.setattr(reasoner, "_write", slowly)
    other = threading.Thread(target=build)
    build()
    other.join()
    assert len(written) == 1
    assert not is_being_built(out)


def test_what_a_killed_build_left_behind_goes_and_other_bundles_builds_stay(base, tmp_path):
    left, others = tmp_path / ".bundle.building", tmp_path / ".bundle-2.building"
    for folder in (left, others):
        (folder / "new").mkdir(parents=True)
        (folder / "new" / "weights.bin").write_bytes(b"half")
    reasoner.build(tmp_path / "bundle", str(base), positions=256, progress=False)
    assert not left.exists()
    assert others.exists()
    bundles.load(tmp_path / "bundle")


def test_the_command_writes_where_the_server_looks(base, tmp_path, monkeypatch, capsys):
    folder, out = adapter(tmp_path / "a"), tmp_path / "served"
    command = ["export", "reasoner", "--if-needed", "--base", str(base)]
    monkeypatch.setenv("TAMIS_REASONER", "")
    assert main([*command, "--adapter", str(folder)]) == 0
    assert "TAMIS_REASONER is empty" in capsys.readouterr().err
    monkeypatch.setenv("TAMIS_REASONER", str(out))
    assert main([*command, "--adapter", str(folder)]) == 0
    assert bundles.load(out).manifest["adapter"]
    # The committed adapter lies with what ships, wherever bundles are served from.
    monkeypatch.setattr(reasoner, "models", lambda: tmp_path)
    assert main(command) == 1
    assert "--adapter: none is committed" in capsys.readouterr().err
    folder.rename(tmp_path / f"{bundles.NAME}-adapter")
    assert reasoner.shipped_adapter() == tmp_path / f"{bundles.NAME}-adapter"


def test_an_adapter_is_merged_as_peft_would(base, tmp_path):
    peft = pytest.importorskip("peft")
    folder = adapter(tmp_path / "a", target_modules=["up_proj"], task_type="CAUSAL_LM")
    model = peft.PeftModel.from_pretrained(write_base(base), folder).merge_and_unload()
    merged = llama.load(base, "model.safetensors")
    llama.merge(merged.weights, folder)
    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_allclose(merged.weights[name], model.state_dict()[name].numpy(), atol=1e-6)


def test_the_manifest_says_what_it_was_made_from(base, tmp_path):
    folder = adapter(tmp_path / "a")
    manifest = reasoner.build(
        tmp_path / "b", str(base), folder, precision="int8", positions=256, progress=False
    )
    assert set(manifest["adapter"]) == {
        *("adapter_config.json", "adapter_model.safetensors", "format.json")
    }
    assert manifest["answers"]["order"] == "reason-first"
    assert len(manifest["base"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(base, tmp_path, config, said):
    folder = adapter(tmp_path / "a", **config)
    with pytest.raises(BundleError, match=said):
        llama.merge(llama.load(base, "model.safetensors").weights, folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"max_position_embeddings": 100}, "max_position_embeddings"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling"),
    ],
)
def test_shapes_that_the_graph_cannot_say_are_refused(base, change, said):
    model = llama.load(base, "model.safetensors")
    with pytest.raises(BundleError, match=said):
        llama.Llama(dict(model.config) | change, model.weights, model.tokenizer).shape(256)
