"""Points around SIT-FER: what changing one thing does, paired over seeds with the run that it is changed in.

As report.py: tables and sentences made from records, percentages throughout. A ± after an accuracy is the standard
deviation over seeds, after a difference the standard error of the paired mean. What the points are stands in plan.py;
their runs are found by key, never by the name of a method.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import pandas as pd

from fercore.analysis import claims as published
from fercore.analysis import comparison, tables
from fercore.config import Run
from fercore.methods import resolve
from fercore.methods.sitfer import Config
from fercore.study import plan
from fercore.study import records as store
from fercore.study.profiles import Profile
from fercore.text import PROMPTS

TAIL = 5  # evaluations that a mean is over, as in claims.measure
OPTIMUM = {"tau": Config.tau}  # stated: best in Figure 4(a); that of (b) is lost in the text
RATE, RIVAL_RATE = "lr", "lr of FixMatch"
OWN_CHOICE = (RATE, RIVAL_RATE, *(f.name for f in fields(Config)))  # axes on which the base run has a place
PAIR = tuple[int, int]  # split seed, seed


@dataclass(frozen=True, eq=False)
class Setting:
    """A point, or the base among its points, with one budget: runs that ended, and those it is compared with."""

    axis: str
    value: str
    labels: int
    runs: tuple[Mapping, ...]  # finished or failed
    base: tuple[Mapping, ...]  # nothing changed
    rival: tuple[Mapping, ...]  # FixMatch; where the learning rate is changed, at the same one
    base_rival: tuple[Mapping, ...]
    chosen: bool  # whether this is the base

    @property
    def done(self) -> list[Mapping]:
        """The finished runs."""
        return finished(self.runs)

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return len(self.runs) - len(self.done)

    def difference(self, metric: str = "accuracy") -> dict[PAIR, float]:
        """Points over the base, seed by seed."""
        return over(self.runs, self.base, metric)

    def gain(self) -> dict[PAIR, float]:
        """Points over FixMatch, seed by seed."""
        return over(self.runs, self.rival)

    def change(self) -> dict[PAIR, float]:
        """Points that the gain over FixMatch is more than the base's, seed by seed."""
        if self.rival == self.base_rival:
            return self.difference()
        here, there = self.gain(), over(self.base, self.base_rival)
        return {seed: here[seed] - there[seed] for seed in sorted(here.keys() & there.keys())}


def settings(study: Profile, notebook: str, records: Iterable[Mapping]) -> list[Setting]:
    """The points of a notebook with their records, axis by axis; on the axis of a constant the base has its place."""
    there = {r["key"]: r for r in tables.runs(records)}
    base, rival, points = plan.base(study), plan.base(study, "fixmatch"), plan.points(study, notebook)
    rates = {point.value: runs for point, runs in points if point.axis == RIVAL_RATE}
    out = []
    for labels in dict.fromkeys(config.labels for config in base):
        for axis in dict.fromkeys(point.axis for point, _ in points):
            unchanged = rival if axis == RIVAL_RATE else base
            chosen = _chosen(axis, base[0])
            here = [(chosen, unchanged)] if chosen else []
            here += [(point.value, runs) for point, runs in points if point.axis == axis]
            for value, runs in sorted(here, key=lambda pair: _place(pair[0])):
                against = rates.get(value, rival) if axis == RATE else rival
                found = [_of(configs, labels, there) for configs in (runs, unchanged, against, rival)]
                same = [c.key for c in runs] == [c.key for c in unchanged]
                out.append(Setting(axis, value, labels, *found, chosen=same))
    return out


# Tables


def table(found: Iterable[Setting], *axes: str) -> pd.DataFrame:
    """One line for each setting, of these axes or of all: accuracy, pseudo-labels, memory.

    ours: classifier, mean of the last five evaluations. difference: from the base, paired over seeds. kept: share of
    unlabelled faces in the loss; right: of all pseudo-labels, and of those; means of the last five. memory: faces in
    it at the end.
    """
    lines = []
    for s in on(found, axes):
        line = {"labels": s.labels, "axis": s.axis, "value": s.value + (" (base)" if s.chosen else "")}
        line |= result(s) | {"kept": tail(s.done, "kept"), "right": tail(s.done, "pseudo_accuracy")}
        line |= {"right, kept": tail(s.done, "pseudo_accuracy_kept"), "memory": memory(s.done)}
        lines.append(line | {"seeds": " ".join(f"{x:.2f}" for x in measures(s))})
    columns = ["labels", "axis", "value", *spread("ours", "difference"), "kept", "right", "right, kept", "memory"]
    return pd.DataFrame(lines, columns=[*columns, "seeds", "n", "failed"])


# Sentences


def coverage(found: Iterable[Setting]) -> str:
    """How many points have a run and with which seeds; then those that have none; then every failed run."""
    found, lines = [s for s in found if not s.chosen], []
    for labels in dict.fromkeys(s.labels for s in found):
        here = [s for s in found if s.labels == labels]
        done = [s for s in here if s.done]
        seeds = ", ".join(map(str, sorted({r["config"]["seed"] for s in done for r in s.done}))) or "none"
        lines.append(f"{tables.budget_name(labels)}: {len(done)} of {len(here)} points have runs, seeds {seeds}")
        absent = listed(s for s in here if not s.runs)
        lines += [f"not run: {'; '.join(absent)}"] if absent else []
    for s in found:
        for r in s.runs:
            if r["status"] == "failed":
                where = f"{named(s)}, {tables.budget_name(s.labels)}, seed {r['config']['seed']}"
                lines.append(f"failed: {where}: {r.get('error', 'no reason given')}")
    return "\n".join(lines) or "no points"


def summit(found: Iterable[Setting], axis: str) -> str:
    """Where on an axis the accuracy is highest, and whether it lies above both ends: a sentence for each budget.

    The rule is that of claims.py; the best of several is compared with each end, so chance is on its side.
    """
    lines = []
    for where, here in grounds(found, [axis]):
        ran = [s for s in here if s.done]
        if len(ran) < 3 or ran[0] is not here[0] or ran[-1] is not here[-1]:
            lines.append(f"{where}: {published.NOT_RUN}: both ends of {axis} and a value between them are needed.")
            continue
        mean = means(ran)
        best = max(mean, key=mean.__getitem__)
        one = " One seed cannot tell this from chance." if any(len(s.done) == 1 for s in ran) else ""
        if best in (ran[0], ran[-1]):
            state, said = published.NOT_REPRODUCED, f"an end, {axis} {best.value}, is highest of {len(ran)} values"
        else:
            judged = [
                published.judge("", end.value, "", best.labels, list(over(best.runs, end.runs).values()))
                for end in (ran[0], ran[-1])
            ]
            state = tables.SAID[published.combine([c.state for c in judged])]
            margins = tables.series([f"{tables.margin(c)} over {c.below}" for c in judged])
            said = f"{axis} {best.value} is highest and lies inside, by {margins}"
        lines.append(f"{where}: {state}: {said}.{one}")
    return "\n".join(lines) or f"{axis}: {published.NOT_RUN}."


def ends(found: Iterable[Setting], axis: str) -> str:
    """Both ends of an axis against the base, seed by seed, and whether these seeds can tell them apart."""
    lines = []
    for where, here in grounds(found, [axis]):
        told = [comparison.said(named(s), "the base", list(s.difference().values())) for s in (here[0], here[-1])]
        lines += [f"{where}: {said}" for said in told]
    return "\n".join(lines) or f"{axis}: {published.NOT_RUN}."


# Parts


def result(s: Setting) -> dict:
    """Part of a table's line: accuracy, its difference from the base, how many runs there are."""
    line = tables.with_spread("ours", measures(s)) | paired("difference", {} if s.chosen else s.difference())
    return line | {"n": len(s.done), "failed": s.failed}


def pairs(above: Iterable[Mapping], below: Iterable[Mapping]) -> dict[PAIR, list[Mapping]]:
    """Finished runs of equal seed, [above, below], of one start file where both were made from one."""
    high, low = ({seed_of(r): r for r in finished(some)} for some in (above, below))
    return {seed: store.alike([high[seed], low[seed]]) for seed in sorted(high.keys() & low.keys())}


def over(above: Iterable[Mapping], below: Iterable[Mapping], metric: str = "accuracy") -> dict[PAIR, float]:
    """Points of the finished runs `above` over those `below`, paired by (split seed, seed)."""
    return {seed: published.apart(*both, metric) for seed, both in pairs(above, below).items()}


def tail(runs: Iterable[Mapping], name: str, level: str | None = None) -> float:
    """Mean over the last evaluations and over seeds of a share in the history (%), or of one of its levels."""
    values = [h.get(name) for r in runs for h in r["history"][-TAIL:]]
    known = [v if level is None else v.get(level) for v in values if v is not None]
    known = [100 * v for v in known if v is not None]
    return statistics.fmean(known) if known else math.nan


def memory(runs: Iterable[Mapping]) -> float:
    """Faces in the memory after the last evaluation, mean over seeds."""
    sizes = [r["history"][-1]["memory"] for r in runs if r["history"][-1].get("memory") is not None]
    return statistics.fmean(sizes) if sizes else math.nan


def means(ran: Iterable[Setting]) -> dict[Setting, float]:
    """Mean accuracy of settings that ran, over the seeds that all of them share; over their own where none is."""
    return {s: statistics.fmean(map(published.measure, runs)) for s, runs in shared(ran).items()}


def shared(ran: Iterable[Setting]) -> dict[Setting, list[Mapping]]:
    """The finished runs of settings that ran, of the seeds that all of them have; of their own where none is.

    Seed by seed of one start file, where all were made from one.
    """
    by_seed = {s: {seed_of(r): r for r in s.done} for s in ran}
    seeds = sorted(set.intersection(*map(set, by_seed.values()))) if by_seed else []
    if not seeds:
        return {s: list(runs.values()) for s, runs in by_seed.items()}
    columns = [store.alike([runs[seed] for runs in by_seed.values()]) for seed in seeds]
    return dict(zip(by_seed, map(list, zip(*columns))))


def measures(s: Setting, metric: str = "accuracy") -> list[float]:
    """Run by run, in percent."""
    return [published.measure(r, metric) for r in s.done]


def paired(name: str, differences: Mapping[PAIR, float]) -> dict[str, float]:
    """Mean of differences and its standard error, as two cells."""
    d = list(differences.values())
    return tables.with_spread(name, d, over=math.sqrt(max(len(d), 1)))


def spread(*names: str) -> list[str]:
    """Each column's name and that of its ±."""
    return [part for name in names for part in (name, f"{name} ±")]


def finished(runs: Iterable[Mapping]) -> list[Mapping]:
    """Those that did not fail."""
    return [r for r in runs if r["status"] == "finished"]


def seed_of(record: Mapping) -> PAIR:
    """What runs are paired by."""
    return record["config"]["split_seed"], record["config"]["seed"]


def named(s: Setting) -> str:
    """Axis and value."""
    return f"{s.axis} {shown(s.value)}".strip()


def shown(value: str) -> str:
    """A value as tables print it: of a prompt its number in Table III."""
    return str(1 + PROMPTS.index(value)) if value in PROMPTS else value


def listed(some: Iterable[Setting]) -> list[str]:
    """Settings by axis: "tau 0.6, 0.7", "random"."""
    values: dict[str, list[str]] = {}
    for s in some:
        values.setdefault(s.axis, []).append(shown(s.value))
    return [f"{axis} {', '.join(here)}".strip() for axis, here in values.items()]


def on(found: Iterable[Setting], axes: Sequence[str] | None) -> list[Setting]:
    """The settings of these axes, or all."""
    return [s for s in found if not axes or s.axis in axes]


def grounds(found: Iterable[Setting], axes: Sequence[str] | None) -> Iterator[tuple[str, list[Setting]]]:
    """("FER2013/2000", its settings on these axes), budget by budget."""
    found = on(found, axes)
    for labels in dict.fromkeys(s.labels for s in found):
        here = [s for s in found if s.labels == labels]
        ran = next((r for s in here for r in s.runs), None)
        yield f"{tables.data_name(ran['config']['dataset'])}/{labels}" if ran else tables.budget_name(labels), here


def _of(configs: Iterable[Run], labels: int, there: Mapping[str, Mapping]) -> tuple[Mapping, ...]:
    return tuple(there[config.key] for config in configs if config.labels == labels and config.key in there)


def _chosen(axis: str, base: Run) -> str:
    """The base's own value on an axis, as plan.py prints values; empty where it has none."""
    if axis in (RATE, RIVAL_RATE):
        return "1 x"
    value = getattr(resolve(base.method, base.options)[1], axis) if axis in OWN_CHOICE else None
    return "" if value is None else plan.constant(axis, value)[0].value


def _place(value: str) -> float:
    """Where a value stands on its axis; words keep their order."""
    try:
        return float(value.split()[0])
    except (ValueError, IndexError):
        return 0.0
