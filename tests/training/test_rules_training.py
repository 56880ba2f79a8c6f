import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export import rules as exporting
from service.engine.policy_encoder import Encoder
from tamis import rules
from tamis.cli import main
from tamis.cli.common import CommandError
from tamis.cli.rules import hints_for
from tamis.content import Content, plain, prompt, response
from tamis.reasoner.protocol import Guideline
from tamis.rules import PairShape, PolicyEncoder
from tests.conftest import write_rows
from tests.training.reasoner_world import make_library, make_rows
from tests.training.rules_world import RULES, make_base, named, write_clubs
from training.classifier.model import GuardClassifier
from training.rules import evaluation, trainer
from training.rules.batching import Batch
from training.rules.calibration import calibrate, figures
from training.rules.forms import Feed
from training.rules.hints import SILENT, WRONG, Noisy, no_hints
from training.rules.judge import Checkpoint, Judge
from training.rules.model import InitError, RuleEncoder
from training.rules.organisations import read_organisations
from training.rules.trainer import Recipe, RecipeError, loss_of, train
from training.rules.trials import Trial

POLICY = tuple(Guideline(name, about) for name, (about, _) in RULES.items())


def batch(labels: Sequence[float], texts: Sequence[int]) -> Batch:
    return Batch({}, np.array(texts), np.array(labels, np.float32))


def test_the_broken_rule_is_to_lead_those_of_its_text():
    given = batch([1, 0, 0, 1], [0, 0, 1, 1])
    right = torch.tensor([3.0, -3.0, -3.0, 3.0])
    led = torch.tensor([-3.0, 3.0, -3.0, 3.0])
    assert loss_of(right, given, 1.0) < loss_of(led, given, 1.0)
    # The list counts beside the pairs, as a mean over texts.
    pairs = loss_of(led, given, 0.0)
    lists = (np.log(1 + np.exp(6)) + np.log(1 + np.exp(-6))) / 2
    assert float(loss_of(led, given, 0.5) - pairs) == pytest.approx(0.5 * lists, rel=1e-4)
    # Rules of other texts do not compete, nor two rules that are both broken.
    for alone in (batch([0, 0, 1], [0, 0, 1]), batch([1, 1, 1], [0, 0, 1])):
        logits = torch.tensor([2.0, -2.0, 1.0])
        assert loss_of(logits, alone, 1.0) == loss_of(logits, alone, 0.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def clubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kinds = ("prompt", "response", "text", "prompt")
    chosen = [*zip(named("train", 4), kinds, strict=True)]
    chosen += [*zip(named("dev", 3), kinds, strict=False)]
    chosen += [*zip(named("test", 3), kinds, strict=False)]
    return write_clubs(tmp_path_factory.mktemp("clubs"), chosen)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write_rows(folder / "rows.jsonl.gz", make_rows())
    return folder


def recipe(base: Path, **more: object) -> Recipe:
    fields = {
        "steps": 60,
        "batch_tokens": 2048,
        "encoder_lr": 2e-3,
        "head_lr": 1e-2,
        "max_tokens": 64,
        "overlap": 8,
        "rule_tokens": 16,
        "context_tokens": 8,
        "check_every": 30,
    } | more
    return Recipe(base=str(base), **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checkpoint(
    base: Path, rows: Path, clubs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("checkpoint")
    train([rows], [clubs], out, recipe(base), make_library())
    return out


@pytest.fixture(scope="module")
def bundle(
    checkpoint: Path, rows: Path, clubs: Path, tmp_path_factory: pytest.TempPathFactory
) -> PolicyEncoder:
    out = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "CALIBRATION_ROWS", 32)
        report = exporting.build(checkpoint, [rows], [clubs], out, "tiny", make_library())
    assert report["torch to fp32"]["flips"] == 0
    assert report["fp32 to int8"]["flip_rate"] < 0.05
    assert report["fp32 to int8"]["rows"] > 100
    return rules.load(out)


def test_what_breaks_a_rule_of_a_new_organisation_is_told_from_what_does_not(checkpoint: Path):
    judge = Checkpoint(checkpoint).judge()
    asked = [(prompt(f"tell number 3 about {word}"), POLICY) for _, word in RULES.values()]
    said = judge.logits([*asked, (prompt("the path is long"), POLICY)])
    assert min(logits.max() for logits in said[:3]) > said[3].max()


def test_a_report_says_what_was_learnt_from_and_where_nothing_lay(checkpoint: Path, base: Path):
    report = json.loads((checkpoint / "training.json").read_text())
    assert report["organisations"]["train"] == named("train", 4)
    assert report["organisations"]["dev"] == named("dev", 3)
    assert "manners" in report["taxonomies"]
    assert "biscuits" not in report["taxonomies"]
    assert report["pairs"]["rule_tokens"] == 16
    assert report["recipe"]["init"] is None


def test_an_interrupted_run_ends_where_it_would_have(
    base: Path, rows: Path, clubs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    short = recipe(base, steps=6, check_every=3)
    whole = tmp_path / "whole"
    train([rows], [clubs], whole, short, make_library())
    told = trainer.early_figures

    def stops(*given: object) -> dict[str, float]:
        stops.calls += 1  # type: ignore[attr-defined]
        if stops.calls == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return told(*given)  # type: ignore[arg-type]

    stops.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(trainer, "early_figures", stops)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        train([rows], [clubs], broken, short, make_library())
    monkeypatch.undo()
    train([rows], [clubs], broken, short, make_library())
    one, other = (
        torch.load(out / "last.pt", weights_only=True)["model"] for out in (whole, broken)
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value)
    with pytest.raises(RecipeError, match="holds a run of 6 steps"):
        train([rows], [clubs], broken, recipe(base, steps=7), make_library())
    with pytest.raises(ValueError, match=r"seed: .* began with another"):
        train([rows], [clubs], broken, replace(short, seed=9), make_library())


def test_a_body_is_taken_over_and_one_of_another_base_refused(
    base: Path, tmp_path: Path, checkpoint: Path, tiny_base: Path
):
    def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {n: p for n, p in model.state_dict().items() if "layer" in n}

    torch.manual_seed(5)
    classifier = GuardClassifier.from_base(base, 7)
    for parameter in classifier.parameters():
        torch.nn.init.normal_(parameter)
    torch.save(classifier.state_dict(), tmp_path / "model.pt")
    model = RuleEncoder.from_base(base)
    head = model.reader.score.weight.clone()
    model.go_on_from(tmp_path)
    for name, value in weights(classifier.encoder).items():
        torch.testing.assert_close(weights(model.encoder)[name], value)
    torch.testing.assert_close(model.reader.score.weight, head)
    # One of its own kind goes on as a whole.
    model.go_on_from(checkpoint)
    own = torch.load(checkpoint / "model.pt", weights_only=True)
    torch.testing.assert_close(model.reader.score.weight, own["score.weight"])
    other = GuardClassifier.from_base(tiny_base, 2)
    state = {name: value[:1] for name, value in other.state_dict().items()}
    torch.save(state | {"score.weight": torch.zeros(3, 64)}, tmp_path / "model.pt")
    with pytest.raises(InitError, match="another base"):
        model.go_on_from(tmp_path)


def test_what_a_body_may_be_used_for_is_carried_over(
    base: Path, rows: Path, clubs: Path, checkpoint: Path, tmp_path: Path
):
    told = tmp_path / "told"
    shutil.copytree(checkpoint, told)
    report = json.loads((told / "training.json").read_text())
    report["rows"]["feedback"] = 3
    (told / "training.json").write_text(json.dumps(report))
    given = [rows], [clubs], tmp_path / "later", recipe(base, init=str(told), steps=2)
    assert train(*given, make_library())["rows"]["feedback"] == 3
    report["recipe"]["variant"] = "all"
    (told / "training.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="init: told"):
        train(*given, make_library())


def test_a_run_that_nothing_could_calibrate_is_refused_before_it_begins(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clubs = write_clubs(tmp_path / "clubs", [(named("train", 1)[0], "prompt")])
    write_rows(tmp_path / "rows.jsonl.gz", make_rows()[:1])
    monkeypatch.setattr(trainer, "loss_of", None)
    with pytest.raises(RecipeError, match="held out, calibration needs"):
        train([tmp_path], [clubs], tmp_path / "out", recipe(base), make_library())


def test_a_recipe_that_cannot_be_followed_is_refused():
    with pytest.raises(RecipeError, match="steps"):
        Recipe(steps=0)
    with pytest.raises(RecipeError, match="listwise"):
        Recipe(listwise=-1)


def test_of_a_long_text_the_worst_window_counts():
    shape = PairShape(cls=1, sep=2, max_tokens=48, overlap=8, rule_tokens=8, context_tokens=8)

    def run(feed: Feed) -> np.ndarray:
        return feed["input_ids"].max(axis=1, keepdims=True).astype(np.float32)

    judge = Judge(lambda text: [ord(c) for c in text], shape, run)
    rule = Guideline("a")
    calm, loud = prompt("b" * 200), prompt("b" * 150 + "z" + "b" * 50)
    found = judge.logits([(calm, (rule, rule)), (loud, (rule,))], batch_tokens=128)
    assert found[0].tolist() == [ord("u")] * 2  # of "user:"
    assert found[1].tolist() == [ord("z")]


def trial(content: Content, broken: int | None, policy: str = "p") -> Trial:
    labels = tuple(float(n == broken) for n in range(len(POLICY)))
    return Trial(content, POLICY, labels, policy, written=True)


def drawn(count: int) -> tuple[list[Trial], list[np.ndarray]]:
    """Trials whose logits are twice too sure of themselves."""
    rng = np.random.default_rng(0)
    found, logits = [], []
    for n in range(count):
        odds = rng.normal(-1.5, 2, 3)
        odds[rng.integers(3)] += 2
        holds = rng.random(3) < 1 / (1 + np.exp(-odds))
        labels = tuple(map(float, holds))
        content = (prompt if n % 2 else plain)(f"text {n}")
        found.append(Trial(content, POLICY, labels, f"p{n % 10}", written=n % 10 < 5))
        logits.append(2 * odds)
    return found, logits


def test_probabilities_come_as_often_as_they_say():
    found = {c.name: c for c in calibrate(*drawn(1200))}
    assert set(found) == set(rules.QUESTIONS)
    for question in ("prompt", "toxicity"):
        assert found[question].scale == pytest.approx(0.5, rel=0.2)
        assert found[question].ece_after < found[question].ece_before
        assert found[question].rows == 600
        strict, loose = (found[question].sensitivities[n]["flag"] for n in ("strict", "loose"))
        assert strict <= found[question].flag <= loose
    # No answer was judged: all texts speak for answers.
    assert found["response"].rows == 1200


def test_what_the_classifier_says_has_a_bias_of_its_own():
    asked, logits = drawn(1200)
    # Half of what breaks a rule is called unsafe, and nothing else.
    hints = [
        ("unsafe", "hate") if t.broken and n % 4 < 2 else ("safe",) for n, t in enumerate(asked)
    ]
    silent, told = ({c.name: c for c in calibrate(asked, logits, h)} for h in ((), hints))
    for question in ("prompt", "toxicity"):
        by_verdict = told[question].by_verdict
        assert by_verdict.keys() == {"unsafe"}
        assert by_verdict["unsafe"] > 0.5
        assert told[question].f1 > silent[question].f1
        assert silent[question].by_verdict == {}


def test_calibration_needs_both_labels():
    alone = [trial(prompt(f"{n}"), 1) for n in range(30)]
    with pytest.raises(ValueError, match="break none"):
        calibrate(alone, [np.zeros(3)] * 30)


def by_word(content: Content) -> rules.Hints:
    """A classifier that knows one rule."""
    return ("kites",) if "kites" in content.text else ("mild",)


def test_an_encoder_is_taught_with_what_a_classifier_says(
    base: Path, rows: Path, clubs: Path, tmp_path: Path, bundle: PolicyEncoder
):
    given = recipe(base, steps=2, hints="by-word@1")
    report = train([rows], [clubs], tmp_path, given, make_library(), by_word)
    assert report["pairs"]["hints"]
    assert not bundle.shape.hints
    made = Checkpoint(tmp_path)
    asked = [(plain("the weather is mild"), POLICY)]
    silent, told = (made.judge(False, h).logits(asked)[0] for h in (no_hints, by_word))
    assert not np.allclose(silent, told)
    # Only whoever it was taught with may tell it more, when its bundle is made.
    with pytest.raises(CommandError, match="taught with hints of by-word@1, not tamis-22m@"):
        hints_for(tmp_path, None)


def test_hints_are_noisy_while_an_encoder_learns():
    noisy = Noisy(by_word, seed=0)
    texts = [plain(f"{n} {'kites' if n % 2 else 'tea'}") for n in range(4000)]
    told = [(by_word(text), noisy(text)) for text in texts]
    silent = sum(heard == () for _, heard in told) / len(told)
    wrong = sum(heard not in ((), true) for true, heard in told) / len(told)
    assert silent == pytest.approx(SILENT, abs=0.02)
    # Half of what was said of another text is right all the same.
    assert wrong == pytest.approx(WRONG / 2, abs=0.02)
    again = Noisy(by_word, seed=0)
    assert [again(text) for text in texts] == [heard for _, heard in told]


def test_a_policy_without_safe_texts_moves_no_threshold():
    asked, logits = drawn(1200)
    faint = [trial(prompt(f"{n}"), 0, "writing") for n in range(400)]

    def flagged(asked: list[Trial], logits: list[np.ndarray]) -> list[bool]:
        (found,) = (c for c in calibrate(asked, logits) if c.name == "prompt")
        p = 1 / (1 + np.exp(-(found.scale * np.array(logits) + found.bias)))
        return [bool(one.max() >= found.flag) for one in p[:1200]]

    assert flagged(asked, logits) == flagged(asked + faint, logits + [np.full(3, -4.0)] * 400)


def test_figures_are_means_over_policies():
    asked = [trial(prompt("a"), 0, "p"), trial(prompt("b"), None, "p")]
    asked += [trial(prompt(f"{n}"), 1, "q") for n in range(4)]
    asked += [trial(prompt(f"{n}"), None, "q") for n in range(4)]
    logits = [np.array([2.0, 0, 0]), np.array([-1.0, -1, -1])]
    logits += [np.array([1.0, 0, 0])] * 8
    assert figures(asked, logits) == {"verdict": 0.75, "category": 0.5}


def test_a_bundle_says_what_its_checkpoint_says(
    bundle: PolicyEncoder, checkpoint: Path, clubs: Path
):
    judge = Judge.of_bundle(bundle, 1)
    asked = [(prompt(f"tell number 3 about {word}"), POLICY) for _, word in RULES.values()]
    served = evaluation.probabilities(judge, bundle, asked)
    trained = Checkpoint(checkpoint).judge(fast=False).logits(asked)
    for one, other in zip(served, trained, strict=True):
        head = bundle.head("prompt")
        expected = 1 / (1 + np.exp(-(head.scale * other + head.bias)))
        np.testing.assert_allclose(one, expected, atol=0.1)
    said = (bundle.path / "README.md").read_text()
    assert "4 written ones; 3 written ones calibrate" in said
    assert f"| prompt | {bundle.manifest['questions'][0]['rows']} |" in said
    assert bundle.manifest["licence"] == "Apache-2.0"


def test_the_service_says_what_is_measured(bundle: PolicyEncoder):
    words = [word for _, word in RULES.values()]
    asked = [(prompt(f"tell number 3 about {word}"), POLICY) for word in words]
    asked += [(response(f"{words[0]} it is", f"and {words[1]}?"), POLICY)]
    asked += [(plain(" ".join(words * 20)), POLICY)]
    measured = evaluation.probabilities(Judge.of_bundle(bundle, 1), bundle, asked)
    encoder = Encoder(bundle)
    for (content, policy), expected in zip(asked, measured, strict=True):
        found = encoder.judge(content, policy)
        np.testing.assert_allclose([found[rule] for rule in policy], expected, atol=1e-4)


def test_no_other_rule_changes_a_probability(bundle: PolicyEncoder, clubs: Path):
    judge = Judge.of_bundle(bundle, 1)
    pools = evaluation.unseen(read_organisations([clubs]), bundle)
    assert sorted(p.taxonomy.name for p in pools) == sorted(
        f"organisations/{name}" for name in named("test", 3)
    )
    found = evaluation.stability(judge, bundle, pools, 0)
    assert found["texts"] == 3 * 48
    for change in ("removed", "added"):
        assert found[change]["change"] < 1e-4
        assert 0 <= found[change]["verdicts"] <= found[change]["categories"] <= 1
    # All clubs have the same rules: there is none to add.
    assert found["added"]["categories"] == 0


def test_of_an_organisation_with_one_rule_none_is_taken_away(bundle: PolicyEncoder, tmp_path: Path):
    policy = {"policy": "one", "kind": "prompt", "categories": {"Kites": {"definition": "d"}}}
    rows = [{"policy": "one", "text": f"kites {n}", "category": "Kites"} for n in range(3)]
    rows += [{"policy": "one", "text": f"the path {n}", "category": None} for n in range(3)]
    (tmp_path / "one.jsonl").write_text("\n".join(json.dumps(row) for row in (policy, *rows)))
    judge = Judge.of_bundle(bundle, 1)
    found = evaluation.stability(judge, bundle, read_organisations([tmp_path]), 0)
    assert found["removed"] == {"change": 0.0, "verdicts": 0.0, "categories": 0.0}


def test_milliseconds_are_measured_for_every_size(bundle: PolicyEncoder, monkeypatch):
    monkeypatch.setattr(evaluation, "ROUNDS", 2)
    monkeypatch.setattr(evaluation, "TOKENS", (5, 30))
    monkeypatch.setattr(evaluation, "CALM", "the weather is mild on day 3 " * 10)
    found = evaluation.speed(Judge.of_bundle(bundle, 1), POLICY)
    assert [(f["tokens"], f["rules"]) for f in found[::2]] == [
        (tokens, count) for tokens in (5, 30) for count in (1, 8, 24)
    ]
    assert all(0 < f[f"{kind} p50"] <= f[f"{kind} p95"] for f in found for kind in ("cold", "warm"))


def test_the_commands_train_and_measure(
    base: Path, rows: Path, clubs: Path, bundle: PolicyEncoder, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(evaluation, "ROUNDS", 1)
    monkeypatch.setattr(evaluation, "TOKENS", (5,))
    monkeypatch.setattr(evaluation, "CALM", "the weather is mild on day 3 " * 10)
    command = ["evaluate-reasoner", "--data", str(rows), "--encoder", str(bundle.path)]
    command += ["--policies", str(clubs), "--no-classifier", "--only", "bank", "figstep"]
    assert main([*command, "--pages", str(tmp_path)]) == 0
    few, more, bare = (
        json.loads((tmp_path / f"tiny{suffix}.json").read_text())
        for suffix in ("", "-more", "-names")
    )
    assert few["about"]["adapter"] == f"tiny@{bundle.fingerprint[:12]}"
    assert few["about"]["trained"]["steps"] == 60
    clubs_of = [name for name in more["sets"] if name.startswith("organisations/")]
    assert len(clubs_of) == 3
    assert not any(name in few["sets"] for name in clubs_of)
    assert more["means"]["organisations"]["s_acc"] > 0.7
    assert more["rules"]["organisations"]["all"]["pairs"] == 3 * 48 * 3
    assert bare["about"]["names_only"]
    assert "stability" not in bare
    assert more["stability"]["texts"] == 3 * 48
    assert len(more["milliseconds"]) == 6
    assert main([*command[:3], "--pages", str(tmp_path)]) == 1
    assert "--pages: needs --encoder" in capsys.readouterr().err


def test_faults_of_training_are_one_line(
    rows: Path, clubs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["train", "rules", "--data", str(rows), "--policies", str(clubs), "--out"]
    assert main([*command, str(tmp_path), "--listwise", "-1"]) == 1
    assert "listwise must be at least 0" in capsys.readouterr().err
    command = ["export", "rules", "--checkpoint", str(tmp_path), "--data", str(rows)]
    assert main(command) == 1
    assert "--policies" in capsys.readouterr().err
