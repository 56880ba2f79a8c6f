import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tamis.content import prompt
from tamis.reasoner.protocol import END, Format, Guideline, answer, case, prefix
from tests.conftest import write_rows
from tests.training.reasoner_world import make_library, make_rows
from training.reasoner import decode, packing, rewards, sft
from training.reasoner import evaluate as evaluation
from training.reasoner import model as models
from training.reasoner.evaluate import Settings, evaluate, table
from training.reasoner.examples import Example, read_examples, write_examples
from training.reasoner.measures import grounded, measure
from training.reasoner.packing import ROOT, Tree, collate, pack
from training.reasoner.report import render
from training.reasoner.sft import Recipe

FORM = Format()
POLICY = (Guideline("Cheating", "Tricks people."), Guideline("Rudeness"))


def example(text: str, category: str | None, reason: str = "", n: int = 0, view: str = "v"):
    return Example(
        id=f"e{n}",
        view=view,
        taxonomy="manners",
        policy=POLICY,
        content=prompt(text),
        category=category,
        reason=reason,
        source="invented",
        licence="own",
    )


def world() -> Iterator[Example]:
    for n in range(48):
        yield example(f"how to cheat at game {n}", "Cheating", "It says “cheat”.", n)
        yield example(f"call uncle {n} a goose", "Rudeness", "", n)
        yield example(f"how to bake loaf {n}", None, "It says “bake”.", n)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("examples")
    rows = list(world())
    write_examples(made / sft.EXAMPLES, [rows[n : n + 6] for n in range(0, 120, 6)])
    write_examples(made / sft.HELD_OUT, [rows[120:]])
    return made


def recipe(base: Path, **more) -> Recipe:
    fields = {"epochs": 3, "batch_tokens": 4096, "tree_tokens": 2048, "lr": 1e-2, "check_every": 4}
    return Recipe(base=str(base), **(fields | more))


def test_a_branch_reads_as_if_it_stood_behind_its_policy_alone(loaded):
    model, coder = loaded
    rows = [example("bake bread", None), example("cheat at cards", "Cheating", "It says “cheat”.")]
    (tree,) = pack(rows, coder, FORM, 4096, 1.0)
    other = Tree(*_short(tree))
    with torch.no_grad():
        states = models.hidden_states(model, collate([other, tree]))[len(other) :]
    for n, row in enumerate(rows):
        pieces = [*prefix(row.policy, FORM), *case(row.content)]
        alone = coder.ids(pieces) + packing.answer_weights(row, FORM, coder, 1.0)[0]
        with torch.no_grad():
            expected = model.model(torch.tensor([alone])).last_hidden_state[0]
        root = tree.segments.count(0)
        at = [i for i, s in enumerate(tree.segments) if s == n + 1]
        torch.testing.assert_close(states[:root], expected[:root], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(states[at], expected[root:], rtol=1e-4, atol=1e-4)


def _short(tree: Tree):
    """The tree's root alone, as a batch mate."""
    n = tree.segments.count(0)
    return tree.ids[:n], tree.positions[:n], tree.segments[:n], tree.weights[:n], [ROOT]


def test_trees_keep_to_their_limit_and_lose_no_example(loaded):
    _, coder = loaded
    rows = list(world())
    trees = list(pack(rows, coder, FORM, 1500, 1.0))
    assert all(len(tree) <= 1500 for tree in trees)
    assert sum(len(tree.parents) - 1 for tree in trees) == len(rows)
    too_long = example("bread " * 400, None)
    assert list(pack([too_long], coder, FORM, 1500, 1.0)) == []


def test_labels_weigh_the_same_whatever_their_length(loaded):
    _, coder = loaded
    for row in (example("a", "Cheating", "It says “a”."), example("a", None, "It says “a”.")):
        ids, weights = packing.answer_weights(row, FORM, coder, 2.0)
        assert len(ids) == len(weights)
        marks = list(answer(row.answer, FORM))
        layout = sum(len(coder.ids([p])) for n, p in enumerate(marks) if n in (0, 2, 4, 5, 7))
        assert sum(weights) == pytest.approx(1 + 1 + 2 + layout * packing.LAYOUT)
        assert ids[-1] == coder.control[END]


def test_without_a_reason_nothing_is_taught_of_what_follows_the_verdict(loaded):
    _, coder = loaded
    ids, weights = packing.answer_weights(example("a", None), FORM, coder, 2.0)
    assert coder.decode(ids) == "\\safety{safe}\\category{not applicable}"
    taught = [i for i, weight in zip(ids, weights, strict=True) if weight]
    assert coder.decode(taught) == "safenot applicable"
    with pytest.raises(ValueError, match="verdict to come first"):
        packing.answer_weights(example("a", None), Format("reason-first"), coder, 2.0)


def test_texts_never_become_control_tokens(loaded):
    _, coder = loaded
    ids = coder.ids(case(prompt(f"ends here {END} and goes on")))
    assert ids.count(coder.control[END]) == 1


def test_every_tree_is_in_one_batch_of_the_epoch(loaded):
    _, coder = loaded
    trees = list(pack(world(), coder, FORM, 900, 1.0))
    plan = packing.batches(trees, 2000, seed=5)
    assert sorted(n for members in plan for n in members) == list(range(len(trees)))
    assert plan == packing.batches(trees, 2000, seed=5)
    assert plan != packing.batches(trees, 2000, seed=6)
    assert all(collate([trees[n] for n in members]).ids.size <= 2048 for members in plan)


def test_training_learns_and_resumes_to_the_same_adapter(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = recipe(base)
    report = sft.train(folder, tmp_path / "whole", chosen)
    lines = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert len(lines) == report["steps"]
    assert (tmp_path / "whole/loss.png").stat().st_size > 0
    config = json.loads((tmp_path / "whole/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base.name

    class InterruptedRunError(Exception):
        pass

    stepped = sft.Master.step

    def stop_after_six(self):
        if self.schedule.last_epoch == 6:
            raise InterruptedRunError
        return stepped(self)

    with monkeypatch.context() as patch:
        patch.setattr(sft.Master, "step", stop_after_six)
        with pytest.raises(InterruptedRunError):
            sft.train(folder, tmp_path / "cut", chosen)
    resumed = sft.train(folder, tmp_path / "cut", chosen)
    again = [json.loads(x) for x in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    assert again == lines
    assert resumed["examples"] == report["examples"]
    left, right = (
        torch.load(tmp_path / name / "last.pt", weights_only=True)["master"]["copies"]
        for name in ("whole", "cut")
    )
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    write_examples(fewer / "examples.jsonl.gz", [read_examples(folder / "examples.jsonl.gz")[:9]])
    with pytest.raises(ValueError, match=r"--data: .* other examples"):
        sft.train(fewer, tmp_path / "cut", chosen)
    with pytest.raises(ValueError, match="another recipe"):
        sft.train(folder, tmp_path / "cut", recipe(base, lr=1e-3))


def test_a_run_that_ends_while_it_saves_is_gone_on_from(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def half(_: object, path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(InterruptedError):
            sft.train(folder, tmp_path, recipe(base))
    report = sft.train(folder, tmp_path, recipe(base))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, report["steps"] + 1))


def test_scores_are_those_of_each_answer_written_out(loaded):
    model, coder = loaded
    rows = [example("bake bread", None), example("cheat at cards", "Cheating")]
    for row, said in zip(rows, decode.scored(model, coder, FORM, rows), strict=True):
        question = coder.ids([*prefix(row.policy, FORM), *case(row.content)])

        def likelihood(*pieces: str, before: list[int] = question) -> float:
            *given, last = (coder.text(piece) for piece in pieces)
            start = before + [i for ids in given for i in ids]
            with torch.no_grad():
                logits = model(torch.tensor([start + list(last)])).logits[0].log_softmax(-1)
            return float(sum(logits[len(start) + n - 1, i] for n, i in enumerate(last)))

        safe, unsafe = (likelihood("\\safety{", word) for word in ("safe", "unsafe"))
        assert said.unsafe == pytest.approx(1 / (1 + np.exp(safe - unsafe)), abs=1e-4)
        opening = ("\\safety{", "unsafe", "}\\category{")
        names = {
            name: likelihood(*opening, name) + likelihood(*opening, name, "}") for name, _ in POLICY
        }
        assert said.answer is not None
        if said.answer.category is not None:
            assert said.answer.category == max(names, key=lambda name: names[name])


def test_writing_in_a_batch_is_writing_alone(loaded):
    model, coder = loaded
    rows = [
        example("bake bread", None),
        example("cheat my aunt at a long game of cards", "Cheating"),
    ]
    together = decode.write(model, coder, FORM, rows, 12)
    assert together == [decode.write(model, coder, FORM, [row], 12)[0] for row in rows]
    question = coder.ids([*prefix(POLICY, FORM), *case(rows[0].content)])
    out = model.generate(
        torch.tensor([question]),
        attention_mask=torch.ones(1, len(question), dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        use_cache=True,
        pad_token_id=2,
    )[0, len(question) :].tolist()
    assert together[0][0] == coder.decode(out[: out.index(2)] if 2 in out else out)


def test_sampling_repeats_by_seed_and_keeps_to_the_likeliest():
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]])).repeat(400, 1)

    def drawn(top_p: float, seed: int = 0) -> list[int]:
        sampling = decode.Sampling(1.0, top_p, seed)
        return sampling.choose(logits, torch.Generator().manual_seed(seed)).tolist()

    assert drawn(1.0) == drawn(1.0)
    assert set(drawn(1.0)) == {0, 1, 2}
    assert set(drawn(0.8)) == {0, 1}
    assert set(drawn(0.5)) == {0}


@pytest.mark.parametrize(
    ("text", "truth", "total"),
    [
        ("\\safety{unsafe}\\category{Cheating}\nIt says “cheat”.", "Cheating", 1.0),
        ("\\safety{unsafe}\\category{Rudeness}\nIt says “cheat”.", "Cheating", 0.55),
        ("\\safety{safe}\\category{not applicable}\nIt says “cheat”.", "Cheating", 0.0),
        ("\\safety{safe}\\category{not applicable}\nIt says “bake”.", None, 1.0),
        ("\\safety{unsafe}\\category{Cheating}\n" + "so " * 3 + "it goes " * 20, "Cheating", 0.0),
        (
            f"\\safety{{safe}}\\category{{not applicable}}\n{' '.join(map(str, range(36)))}",
            None,
            0.5,
        ),
        ("\\safety{safe}\\category{Cheating}\nIt says “cheat”.", "Cheating", 0.0),
        ("\\safety{unsafe}\\category{Shouting}\nIt says “cheat”.", "Cheating", 0.0),
        ("It is fine.", None, 0.0),
    ],
)
def test_the_reward_is_the_papers(text: str, truth: str | None, total: float):
    names = [name for name, _ in POLICY]
    found = rewards.reward(text, True, truth, names, FORM)
    assert found.total == pytest.approx(total)
    assert rewards.reward(text, False, truth, names, FORM).total == 0


def test_figures_are_counted_as_the_paper_counts():
    rows = [
        example("a", "Cheating"),
        example("b", "Cheating"),
        example("c", "Rudeness"),
        replace(example("d", None), left_out="Pushing"),
        example("e", None),
    ]
    said = [
        decode.read("\\safety{unsafe}\\category{Cheating}\nIt says “a”.", True, ["Cheating"], FORM),
        decode.read("\\safety{unsafe}\\category{Rudeness}\nIt says “b”.", True, ["Rudeness"], FORM),
        decode.read("no idea", True, ["Rudeness"], FORM),
        decode.read("\\safety{safe}\\category{not applicable}\nOf “f”.", True, [], FORM),
        decode.read("\\safety{unsafe}\\category{Rudeness}\nIt says “x”.", True, ["Rudeness"], FORM),
    ]
    figures = measure(rows, said)
    assert figures["parsed"] == 0.8
    assert figures["s_acc"] == 0.75
    assert figures["s_acc_all"] == 0.6
    assert figures["s_f1"] == pytest.approx(0.8)
    assert figures["c_acc"] == 0.4
    assert figures["c_acc_unsafe"] == pytest.approx(1 / 3, abs=1e-3)
    assert figures["left_out_acc"] == 1.0
    assert figures["faults"] == {"layout": 1}
    assert grounded(rows, said) == 0.5


def test_evaluation_covers_trained_and_unseen_taxonomies_and_the_bank(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_rows(tmp_path / "rows.jsonl.gz", make_rows())
    arguments = {"base": str(base), "given": make_library()}

    def flags(contents):
        return ["bake" not in content.text for content in contents]

    known = evaluate([tmp_path], None, Settings("scored", most=4), flags, **arguments)
    # The shipped classifier learned from such rows; what it makes of them is no test.
    assert known["means"]["unseen"]["classifier"] is None
    monkeypatch.setattr(evaluation, "_taught", lambda _: False)
    results = evaluate([tmp_path], None, Settings("scored", most=4), flags, **arguments)
    groups = {name: figures["group"] for name, figures in results["sets"].items()}
    # Without every other category of either, no text is clearly safe: neither is halved.
    assert groups == {"manners": "trained", "biscuits": "unseen", "bank": "bank"}
    assert results["sets"]["bank"]["n"] == 40
    assert results["means"]["unseen"]["classifier"]["s_acc"] == 1.0
    assert results["sets"]["manners"]["parsed"] == 1.0
    assert "bread" not in json.dumps(results)
    assert "biscuits" in table(results)
    written = evaluate([tmp_path], None, Settings(most=2, only=("biscuits",)), None, **arguments)
    assert written["sets"]["biscuits"]["parsed"] == 0.0
    learnt = Settings("scored", 2, only=("biscuits",), trained=("biscuits",))
    assert evaluate([tmp_path], None, learnt, None, **arguments)["means"].keys() == {"trained"}
    assert sum(written["sets"]["biscuits"]["faults"].values()) == 4
    made = tmp_path / "measurements"
    made.mkdir()
    for name, run in (("base", results), ("sft", known)):
        (made / f"{name}.json").write_text(json.dumps(run))
    (made / "findings.md").write_text("It reads policies.\n")
    page = render(made)
    assert "It reads policies." in page
    assert "| biscuits | prompts | 8 | 4 |" in page
    assert "| SFT (cold start) | prompts | 8 |" in page
    (made / "grpo.json").write_text(json.dumps(written))
    with pytest.raises(ValueError, match="on other texts"):
        render(made)
    assert "85.68/78.32" in page
    with pytest.raises(ValueError, match="no taxonomy 'sums'"):
        evaluate([tmp_path], None, Settings(only=("sums",)), None, **arguments)


def test_the_classifier_is_compared_on_the_same_texts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = [example(f"text {n}", "Cheating" if n % 2 else None, n=n) for n in range(40)]

    def flags(contents):
        return [True] * len(contents)

    monkeypatch.setattr(evaluation, "_taught", lambda one: one.id == "e0")
    assert evaluation._classifier(rows, flags) is None
    found = evaluation._classifier(rows[1:], flags)
    assert found is not None
    assert (found["n"], found["unsafe"]) == (39, 20)

    def figures(n: int, right: float, classifier: dict | None) -> dict:
        shares = dict.fromkeys(("s_acc", "s_acc_all", "s_f1", "c_acc", "c_acc_unsafe"), right)
        more = {"parsed": 1.0, "words": None, "group": "unseen", "question": "prompt"}
        return {"n": n, "unsafe": n // 2, **shares, **more, "classifier": classifier}

    # Of the second set it is on half of the texts, as older measurements are.
    other = {"n": 40, "unsafe": 20, "s_acc": 0.9, "s_f1": 0.8}
    sets = {"all new": figures(40, 0.7, other), "half known": figures(80, 0.5, other)}
    means = {"unseen": {}}
    run = {"sets": sets, "means": means, "about": {"mode": "scored", "most": 1, "date": "today"}}
    (tmp_path / "base.json").write_text(json.dumps(run))
    (tmp_path / "findings.md").write_text("It reads policies.\n")
    page = render(tmp_path)
    assert "| base | prompts | 120 | 60.0 |" in page
    assert "| base, the classifier's sets | prompts | 40 | 70.0 |" in page
    assert "| *the classifier* | prompts | 40 | 90.0 |" in page
    assert "| half known | prompts | 80 | 40 | 50.0 / 50.0 | – |" in page


def test_a_folder_without_an_adapter_is_refused(base: Path, tmp_path: Path):
    with pytest.raises(models.AdapterError, match="no adapter_config"):
        models.load_reasoner(str(base), tmp_path)


@pytest.mark.filterwarnings("ignore::Warning")  # trl and its many dependencies
def test_grpo_runs_from_a_cold_start_and_its_adapter_holds_both(
    base: Path, folder: Path, tmp_path: Path
):
    from training.reasoner import grpo

    cold = tmp_path / "cold"
    sft.train(folder, cold, recipe(base, steps=2))
    chosen = grpo.Recipe(
        base=str(base),
        init=str(cold),
        steps=2,
        prompts=2,
        group=2,
        micro=4,
        lr=1e-2,
        most_tokens=8,
        most_question_tokens=2048,
    )
    report = grpo.train(folder, tmp_path / "grpo", chosen)
    assert report["rollouts"] == 8
    lines = (tmp_path / "grpo/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert {"reward", "kl", "parsed", "safety", "category"} <= set(json.loads(lines[0]))
    assert (tmp_path / "grpo/rewards.png").stat().st_size > 0
    # Of a run that was interrupted, the steps before that count as well.
    first, last = map(json.loads, lines)
    (tmp_path / "grpo/metrics.jsonl").write_text(
        "".join(json.dumps(step) + "\n" for step in (first | {"seconds": 1000}, last))
    )
    assert 1000 <= grpo.train(folder, tmp_path / "grpo", chosen)["seconds"] < 1100
    with pytest.raises(ValueError, match="--micro: 4 rollouts a step cannot be parted into 3"):
        grpo.train(folder, tmp_path / "odd", replace(chosen, micro=3))
    (tmp_path / "other").mkdir()
    write_examples(tmp_path / "other" / sft.EXAMPLES, [[*world()][:6]])
    with pytest.raises(ValueError, match=r"--data: .* other examples"):
        grpo.train(tmp_path / "other", tmp_path / "grpo", chosen)
    # What is written applies to the bare base: the cold start's update and this run's together.
    ids = torch.arange(3, 40)[None]

    def logits(adapter: Path | None) -> torch.Tensor:
        model, _ = models.load_reasoner(str(base), adapter)
        with torch.no_grad():
            return model.float()(ids).logits

    both, alone = logits(tmp_path / "grpo"), logits(cold)
    assert not torch.allclose(alone, logits(None), atol=1e-2)
    trained, _ = models.load_base(str(base), torch.float32)
    from peft import PeftModel

    for part in (cold / "adapter", tmp_path / "grpo/delta"):
        trained = PeftModel.from_pretrained(trained, str(part)).merge_and_unload()
    with torch.no_grad():
        expected = trained(ids).logits
    torch.testing.assert_close(both, expected, rtol=0.05, atol=0.05)


def test_rollouts_keep_a_groups_policy_and_end_their_turns(loaded, base: Path):
    from types import SimpleNamespace

    from training.reasoner import grpo

    model, coder = loaded
    rows = [*world()][:3]
    chosen = grpo.Recipe(base=str(base), most_tokens=6)
    rollouts = grpo.Rollouts(rows, coder, FORM, chosen)
    accelerator = SimpleNamespace(unwrap_model=lambda m: m)
    state = SimpleNamespace(global_step=0)
    trainer = SimpleNamespace(model=model, accelerator=accelerator, state=state)
    made = rollouts(["0", "0", "2"], trainer)
    assert made["prompt_ids"][2] == grpo.question_ids(rows[2], coder, FORM)
    assert [len(ids) <= 6 for ids in made["completion_ids"]] == [True] * 3
    right = coder.ids(answer(rows[0].answer, FORM))
    assert rollouts.reward(["0", "0"], [right, right[:-1]]) == [1.0, 0.0]
    shares = rollouts.shares()
    assert shares["parsed"] == shares["safety"] == shares["category"] == 0.5
    assert rollouts.shares() == {}  # Counted once.
