"""The ladder between SIT-FER's paper and its released code: its rungs, and what the records say of each.

Which runs there are is written in plan.py, what a point of the step does in methods/audit.py. Accuracies are the
classifier's, mean of the last five evaluations, in percent.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fercore.analysis import claims as published
from fercore.config import Run
from fercore.methods import audit
from fercore.study import plan
from fercore.study import records as store
from fercore.study.profiles import Profile

NOTEBOOK = "50_paper_versus_code"
PAPER, CODE, UP, DOWN = "SIT-FER", "released code", "from the paper", "from the code"
SAID = {  # every rung: as the code has it, as the paper has it
    "words": ("random text vectors", "trained text vectors"),
    "logits": ("fused logits", "fused probabilities"),
    "max": ("max over slots", "sum over slots"),
    "unaligned": ("no alignment", "alignment"),
    "hard": ("hard labels", "soft labels"),
    "weights": ("its loss weights", "our loss weights"),
    "selected": ("mean over selected", "mean over the batch"),
    "cosine": ("text at T = 1", "text at our T"),
    "overwrite": ("memory overwritten", "memory averaged"),
    "fixed": ("no growth by delta", "growth by delta"),
    "dropout": ("dropout, unit norm", "no dropout"),
    "threshold": (f"threshold {audit.THRESHOLD}", "threshold tau"),
    "ema": ("no averaged weights", "averaged weights"),
    "colour": ("BGR", "RGB"),
}
LARGER, WITHIN, ONE_SEED = "larger", "within", "one seed"
MAINLY = 0.75  # of a window before the switch, so that it counts as before


@dataclass(frozen=True, eq=False)
class Rung:
    """A place on the ladder: its runs, and pair by pair those of the end that it differs from in one point."""

    side: str  # PAPER or CODE, an end; UP or DOWN, one point away from an end
    name: str
    runs: tuple[Run, ...]
    end: tuple[Run, ...]  # for SIT-FER none, for the code's end SIT-FER

    @property
    def said(self) -> str:
        """What is changed, in words; nothing for an end."""
        return "" if self.side in (PAPER, CODE) else SAID[self.name][self.side == DOWN]

    @property
    def switches(self) -> bool:
        """Whether the fusion switches weights during the training (points 8, 9)."""
        return "logits" in self.runs[0].options.get("code", ())


def runs(study: Profile, only: Sequence[str] = ()) -> list[Run]:
    """The runs of this notebook, or its ends and these rungs alone."""
    if not only:
        return plan.runs(study, NOTEBOOK)
    chosen = [runs for point, runs in plan.points(study, NOTEBOOK) if point.axis == "end" or point.value in only]
    return [*plan.base(study), *(config for runs in chosen for config in runs)]


def rungs(study: Profile, labels: int) -> list[Rung]:
    """Both ends, then from each end the points one at a time, as plan.py has them."""
    base = [config for config in plan.base(study) if config.labels == labels]
    points = [(p, [c for c in made if c.labels == labels]) for p, made in plan.points(study, NOTEBOOK)]
    (code,) = (made for point, made in points if point.axis == "end")
    found = [Rung(PAPER, "paper", tuple(base), ()), Rung(CODE, "code", tuple(code), tuple(base))]
    for side, end in ((UP, base), (DOWN, code)):
        found += [Rung(side, p.value, tuple(made), tuple(end)) for p, made in points if p.axis == side]
    return found


def budgets(study: Profile) -> list[int]:
    """The budgets of the points."""
    return sorted({config.labels for config in plan.base(study)})


# What the records say


def accuracies(records: Iterable[Mapping], rung: Rung) -> list[float]:
    """Of the finished runs, in the order of the seeds."""
    done = store.finished(records)
    return [published.measure(done[config.key]) for config in rung.runs if config.key in done]


def differences(records: Iterable[Mapping], rung: Rung) -> list[float]:
    """Points over the end, pair by pair, in the order of the seeds."""
    done = store.finished(records)
    pairs = [(one.key, end.key) for one, end in zip(rung.runs, rung.end) if one.key in done and end.key in done]
    return [published.apart(done[one], done[end]) for one, end in pairs]


def compared(d: Sequence[float]) -> str:
    """Whether a mean difference is larger than the standard deviation of its pairs; one pair has none."""
    if len(d) < 2:
        return ONE_SEED
    return LARGER if abs(statistics.fmean(d)) > statistics.stdev(d) else WITHIN


def failed(records: Iterable[Mapping], rung: Rung) -> int:
    """How many runs failed, and have not finished since."""
    keys = {config.key for config in rung.runs} - store.finished(records).keys()
    return len({r["key"] for r in records if r["key"] in keys and r["status"] == "failed"})


@dataclass(frozen=True)
class Window:
    """The steps between two evaluations, and the share of unlabelled faces that passed in them."""

    start: int
    end: int
    kept: float


def windows(record: Mapping) -> tuple[Window, Window] | None:
    """The last window that lay mainly before the switch, and the first that lay wholly behind it."""
    at, starts = audit.SWITCH * record["config"]["steps"], [0, *(entry["step"] for entry in record["history"])]
    spans = zip(starts, record["history"])
    found = [Window(start, entry["step"], entry["kept"]) for start, entry in spans if entry.get("kept") is not None]
    before = [window for window in found if at - window.start >= MAINLY * (window.end - window.start)]
    after = [window for window in found if window.start >= at]
    return (before[-1], after[0]) if before and after else None
