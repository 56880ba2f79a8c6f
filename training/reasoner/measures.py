"""GSPR's figures (section 4.1): S-Acc, S-F1, C-Acc, and what the paper leaves out beside them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from training.classifier.calibration import calibration_error
from training.evaluation.metrics import f1
from training.reasoner.decode import Said
from training.reasoner.examples import Example

LEAST: Final = 10
THRESHOLDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def measure(examples: Sequence[Example], said: Sequence[Said]) -> dict[str, Any]:
    """Figures of one set; shares are in [0, 1], None where there is nothing to divide by.

    ``s_acc`` is over parsable answers, as in the paper, ``s_acc_all`` over all (a malformed one is
    wrong); ``c_acc`` is over all rows, "not applicable" included.
    """
    pairs = [
        (example.category, answer.answer) for example, answer in zip(examples, said, strict=True)
    ]
    parsed = [(truth, answer) for truth, answer in pairs if answer is not None]
    right = sum((truth is None) == (answer.category is None) for truth, answer in parsed)
    hits = sum(truth is not None and answer.category is not None for truth, answer in parsed)
    called = sum(answer.category is not None for _, answer in parsed)
    unsafe = sum(truth is not None for truth, _ in parsed)
    named = sum(truth == answer.category for truth, answer in parsed)
    of_unsafe = [answer for truth, answer in pairs if truth is not None]
    named_unsafe = sum(
        answer is not None and truth == answer.category for truth, answer in pairs if truth
    )
    left_out = [answer for e, (_, answer) in zip(examples, pairs, strict=True) if e.left_out]
    reasons = [s.words for s in said if s.words]
    precision, recall = (hits / called if called else 0.0), (hits / unsafe if unsafe else 0.0)
    return {
        "n": len(pairs),
        "unsafe": len(of_unsafe),
        "parsed": _share(len(parsed), len(pairs)),
        "s_acc": _share(right, len(parsed)),
        "s_acc_all": _share(right, len(pairs)),
        "s_f1": round(f1(precision, recall), 4) if unsafe else None,
        "c_acc": _share(named, len(pairs)),
        "c_acc_unsafe": _share(named_unsafe, len(of_unsafe)),
        "left_out_acc": _share(
            sum(a is not None and a.category is None for a in left_out), len(left_out)
        ),
        "words": round(sum(reasons) / len(reasons), 1) if reasons else None,
        "faults": {
            fault: sum(s.fault == fault for s in said)
            for fault in sorted({s.fault for s in said if s.fault})
        },
    }


def grounded(examples: Sequence[Example], said: Sequence[Said]) -> float | None:
    """Share of reasons with a quotation that quote words which do stand in the text."""
    found = []
    for example, answer in zip(examples, said, strict=True):
        reason = answer.answer.reason if answer.answer else ""
        if "“" in reason and "”" in reason:
            quoted = reason.split("“", 1)[1].split("”", 1)[0]
            found.append(_words(quoted) in _words(example.content.text))
    return _share(sum(found), len(found))


def single_rules(examples: Sequence[Example], said: Sequence[Said]) -> dict[str, Any]:
    """How far probabilities of single rules can be trusted, where every rule of a text is known.

    Also the accuracy of verdicts at some thresholds in place of the bundle's own.
    """
    pairs = [
        (p, float(name == example.category))
        for example, answer in zip(examples, said, strict=True)
        for name, p in (answer.rules or {}).items()
    ]
    p, y = (np.array(column) for column in zip(*pairs, strict=True))
    most = np.array([answer.unsafe for answer in said], dtype=float)
    truth = np.array([example.category is not None for example in examples])
    return {
        "pairs": len(p),
        "broken": int(y.sum()),
        "ece": round(calibration_error(p, y, np.ones(len(p))), 4),
        "mean": round(float(p.mean()), 4),
        "at": {str(t): round(float(((most >= t) == truth).mean()), 4) for t in THRESHOLDS},
    }


def pooled(figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over sets, each counting the same, as in the paper's tables.

    A set with hardly any text of one label says little, and is left out where others say more.
    """
    figures = [f for f in figures if min(f["unsafe"], f["n"] - f["unsafe"]) >= LEAST] or figures
    keys = ("parsed", "s_acc", "s_acc_all", "s_f1", "c_acc", "c_acc_unsafe", "words", "grounded")
    mean = {}
    for key in keys:
        values = [f[key] for f in figures if f.get(key) is not None]
        mean[key] = round(sum(values) / len(values), 4) if values else None
    return mean | {"n": sum(f["n"] for f in figures), "unsafe": sum(f["unsafe"] for f in figures)}


def beside(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """The classifier's figures of a set or of a mean, where they are of the very same texts."""
    found: dict[str, Any] | None = figures.get("classifier")
    return found if found and found["n"] == figures["n"] else None


def _words(text: str) -> str:
    kept = "".join(c if c.isalnum() else " " for c in text.lower())
    return f" {' '.join(kept.split())} "


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
