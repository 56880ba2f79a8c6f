import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from export import llama, reasoner
from service.engine.decoder import Decoder
from tamis import reasoner as bundles
from tamis.bundle import BundleError
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
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]  # nothing is left behind
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
