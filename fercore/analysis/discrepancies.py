"""Where SIT-FER's paper and its released code differ: the points of params/audit.yaml, and what follows by arithmetic.

What has to be trained is in auditing.py. Every function of COMPUTED returns one sentence or a few, whose numbers it
has just worked out; the constants above it are the released code's.
"""

import functools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Float
from torch import Tensor

from fercore import augment, paths, text
from fercore.data.check import OFFICIAL
from fercore.data.expressions import EXPRESSIONS
from fercore.errors import UserError
from fercore.methods import audit

VERDICTS = ("confirmed", "refuted", "partly", "new")  # what had been said of the code; new: found by reading it
RUNGS = ("words", *audit.POINTS, "ema", "colour")  # plan.rungs, on coloured faces
VIEWS = ("fused", "best")
KEYS = ("number", "point", "paper", "code", "where", "verdict", "effect")


@dataclass(frozen=True)
class Discrepancy:
    """One point: what the paper says, what the code does and where, and how its effect is known."""

    number: int
    point: str
    paper: str | None
    code: str
    where: str
    verdict: str  # one of VERDICTS
    toggle: tuple[str, ...] = ()  # rungs of the ladder
    view: str = ""  # another reading of the same records
    computed: str = ""  # a function of COMPUTED
    argued: str = ""


def load(path: Path | None = None) -> list[Discrepancy]:
    """All points, in the file's order. Raises UserError naming file, point and key where something is off."""
    path = paths.PARAMS / "audit.yaml" if path is None else path
    try:
        return list(_parse(path, path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def of_rung(name: str) -> str:
    """The numbers of the points that a rung of the ladder stands for."""
    return ", ".join(str(point.number) for point in load() if name in point.toggle)


@functools.cache
def _parse(path: Path, content: str) -> list[Discrepancy]:
    try:
        entries = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected a list of points")
    points = [_point(path, entry) for entry in entries]
    for i, point in enumerate(points, 1):
        if point.number != i:
            raise UserError(f"{path}, point {point.number}: stands at place {i}; points are numbered from 1 on")
    return points


def _point(path: Path, entry: object) -> Discrepancy:
    where = f"{path}, point {entry.get('number', '?') if isinstance(entry, dict) else entry}"
    _keys(where, entry, set(KEYS), set(KEYS))
    _keys(f"{where}, effect", entry["effect"], {"toggle", "view", "computed", "argued"})
    if not isinstance(entry["number"], int):
        raise UserError(f"{where}: number: expected an integer")
    for key in ("point", "code", "where"):
        _sentence(where, key, entry[key])
    if entry["paper"] is not None:
        _sentence(where, "paper", entry["paper"])
    effect = entry["effect"]
    toggle = [effect["toggle"]] if isinstance(effect.get("toggle"), str) else effect.get("toggle", [])
    if not effect or not isinstance(toggle, list):
        raise UserError(f"{where}, effect: expected one or more of toggle, view, computed, argued")
    one_of = [("verdict", entry["verdict"], VERDICTS), *(("toggle", name, RUNGS) for name in toggle)]
    one_of += [(key, effect[key], known) for key, known in (("view", VIEWS), ("computed", COMPUTED)) if key in effect]
    for key, value, known in one_of:
        if value not in known:
            raise UserError(f"{where}: {key}: {value!r} is unknown; use one of {', '.join(known)}")
    if "argued" in effect:
        _sentence(where, "argued", effect["argued"])
    rest = {key: effect.get(key, "") for key in ("view", "computed", "argued")}
    return Discrepancy(**{key: entry[key] for key in KEYS[:-1]}, toggle=tuple(toggle), **rest)


def _keys(where: str, entry: object, may: set[str], need: set[str] = frozenset()) -> None:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: expected keys {', '.join(sorted(may))}")
    if unknown := sorted(map(str, entry.keys() - may)):
        raise UserError(f"{where}: unknown key {unknown[0]!r}; expected {', '.join(sorted(may))}")
    if missing := sorted(need - entry.keys()):
        raise UserError(f"{where}: key {missing[0]!r} is missing")


def _sentence(where: str, key: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {key}: expected words, got {value!r}")


# What follows by arithmetic

K, OURS = len(EXPRESSIONS), audit.Config()
LABELS, BATCH, WIDTH = 5000, 16, 512  # --n_labeled, --batch-size, of the feature
SEEDS = 5  # of untrained text encoders
TUNED = {  # threshold; weight of the logits before and after the switch; epoch of the switch (#20)
    "SFEW/400": (0.72, 0.7, 1.0, 5),
    "RAF-DB/2000": (0.8, 0.5, 0.35, 15),
    "RAF-DB/4000": (0.8, 0.5, 0.4, 10),
    "RAF-DB/5000": (audit.THRESHOLD, audit.FIRST["semantic"], audit.SECOND["semantic"], 15),
}


def margin(p: float) -> float:
    """How far one of K logits must stand above equal others for the probability p: ln(p (K - 1) / (1 - p))."""
    return math.log(p * (K - 1) / (1 - p))


def probability(margin: float) -> float:
    """The inverse: the softmax of a logit that stands so far above equal others."""
    return 1 / (1 + (K - 1) * math.exp(-margin))


def most(anchors: Float[Tensor, "k t"], temperature: float = 1.0) -> list[float]:
    """For each class the largest p that a unit feature can give it, by gradient ascent over the feature."""
    _, coordinates = torch.linalg.qr(anchors.double().T)  # the best feature lies among the anchors
    f = F.normalize(coordinates.T, dim=1).clone().requires_grad_()
    optimiser = torch.optim.LBFGS([f], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = F.normalize(f, dim=1) @ coordinates / temperature
        value = F.cross_entropy(logits, torch.arange(len(anchors)), reduction="sum")
        value.backward()
        return value

    optimiser.step(loss)
    logits = F.normalize(f.detach(), dim=1) @ coordinates / temperature
    return logits.softmax(1).diagonal().tolist()


@functools.cache
def drawn() -> list[tuple[float, float]]:
    """Of SEEDS untrained text encoders: mean pairwise cosine, and the lowest L_t of a balanced batch."""
    tables = [F.normalize(text.released(K, seed), dim=1) for seed in range(SEEDS)]
    pairs = torch.ones(K, K).triu(1).bool()
    return [(float((t @ t.T)[pairs].mean()), statistics.fmean(-math.log(p) for p in most(t))) for t in tables]


def text_vectors() -> str:
    cosines, losses = zip(*drawn())
    orthogonal = statistics.fmean(most(torch.eye(K)))
    at_ours = min(most(F.normalize(text.released(K), dim=1), OURS.t_text))
    return (
        f"Over {SEEDS} seeds the mean pairwise cosine is {min(cosines):.2f} to {max(cosines):.2f}, and whatever the "
        f"feature, L_t stays above {min(losses):.2f} to {max(losses):.2f} (ln {K} = {math.log(K):.2f}): the right "
        f"class gets at most p = {math.exp(-max(losses)):.2f} to {math.exp(-min(losses)):.2f}. More of this is the "
        f"temperature (point 6) than the vectors: at T = 1 orthogonal ones would allow p = {orthogonal:.2f}, at "
        f"T = {OURS.t_text} these same ones {at_ours:.2f}."
    )


def double_loop() -> str:
    test = sum(OFFICIAL["rafdb"]["test"][0][1])
    step, whole = BATCH * LABELS, test * LABELS
    return (
        f"The loop: {BATCH} faces x {LABELS:,} slots = {step:,} tensor operations in a step and {whole / 1e6:.1f} "
        f"million in an evaluation on RAF-DB's {test:,} test faces. One product of a {BATCH} x {WIDTH} and a {WIDTH} x "
        f"{LABELS:,} matrix does the same."
    )


def ceiling() -> str:
    by_text, by_memory = probability(2.0), probability(1.0)  # cosines of 1 and -1; of 1 and 0
    top = (1 + by_text + by_memory) / 3
    return (
        f"The code's other two levels have no temperature, so their softmax is at most "
        f"{by_text:.2f} and {by_memory:.2f}. The mean (8) of these and a certain classifier is at most "
        f"{top:.2f}, below the threshold of {audit.THRESHOLD}: with the paper's fusion the code would keep nothing."
    )


def margins() -> str:
    need, first, second = margin(audit.THRESHOLD), audit.FIRST["semantic"], audit.SECOND["semantic"]
    most, least = need / second, (need - audit.SECOND["instance"]) / second
    return (
        f"p > {audit.THRESHOLD} needs a fused margin of {need:.2f} over {K - 1} equal rivals: a margin of "
        f"{need / first:.1f} between the logits before the switch, then {least:.1f} (the memory all for the class) to "
        f"{most:.1f} (undecided). So the share of faces that pass must fall there; tested below."
    )


def shares_at_test() -> str:
    largest = {"semantic": 1.0, "text": math.exp(-min(loss for _, loss in drawn())), "instance": probability(1.0)}
    reach = {name: p - (1 - p) / (K - 1) for name, p in largest.items()}  # how far one class can stand above another
    pull = {name: audit.SECOND[name] * far for name, far in reach.items()}
    shares = ", ".join(f"{name} {100 * far / sum(pull.values()):.0f} %" for name, far in pull.items())
    return (
        f"The softmax of values in [0, 1] is nearly flat (a single 1 among {K}: {probability(1.0):.2f}). Times how far "
        f"each level can put one class above another, the weights come to {shares}."
    )


def tuned() -> str:
    said = [
        f"{name} {margin(p) / first:.1f} then {margin(p) / second:.1f} (from epoch {epoch + 1})"
        for name, (p, first, second, epoch) in TUNED.items()
    ]
    harder = sum(second < first for _, first, second, _ in TUNED.values())
    return (
        f"The margin between the logits that a pseudo-label needs, the other levels undecided: {'; '.join(said)}. So "
        f"coverage must fall at the switch in {harder} of the {len(TUNED)} scripts and rise in the other."
    )


def split_rule(n: int, available: Mapping[str, int]) -> dict[str, int]:
    """The labelled faces of each class by the released rule, as many as there are."""
    balanced = 400 // K
    return {
        name: min(there, balanced if i == 2 else (n - balanced) // (K - 1))
        for i, (name, there) in enumerate(available.items())
    }


def class_counts() -> str:
    available = dict(zip(EXPRESSIONS, OFFICIAL["rafdb"]["train"][0][1]))
    drawn = {n: split_rule(n, available) for n in (100, 400, 2000, 4000, LABELS)}
    totals = ", ".join(f"{n:,}: {sum(counts.values()):,}" for n, counts in drawn.items())
    whole = [name for name, count in drawn[LABELS].items() if count == available[name]]
    few = drawn[100]
    return (
        f"On RAF-DB, labels asked for and drawn: {totals}. Balanced at 400 alone, since {drawn[400]['disgust']} is a "
        f"seventh of 400: of 100 labels {few['disgust']} are disgust and {few['fear']} each other class; of {LABELS:,} "
        f"all faces of {' and '.join(whole)} are labelled and none is left to learn from unlabelled. Ours: splits.py."
    )


def unseeded() -> str:
    ways = len(augment.OPERATIONS) ** augment.DRAWS
    return (
        f"A face's strong view begins with one of {len(augment.OPERATIONS)}^{augment.DRAWS} = {ways:,} sequences of "
        f"operations, drawn anew in every run of one seed: no run can be repeated. Ours draws from seed and step."
    )


COMPUTED: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (text_vectors, double_loop, ceiling, margins, shares_at_test, tuned, class_counts, unseeded)
}
