"""The audit of SIT-FER's paper against its released code: tables and sentences from records.

The points themselves, and what follows without training, are in discrepancies.py; the rungs and their differences in
ladder.py; figures in audit_figures.py.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import pandas as pd

from fercore.analysis import claims as published
from fercore.analysis import comparison, discrepancies, ladder, significance, tables
from fercore.analysis.ladder import CODE, DOWN, LARGER, PAPER, SAID, UP, WITHIN, Rung
from fercore.methods import audit
from fercore.study import plan
from fercore.study import records as store
from fercore.study.profiles import Profile

LADDER = ["labels", "side", "#", "change", "ours", "ours ±", "difference", "difference ±"]
LADDER += ["p", "p, Holm", "n", "failed", "than the\nspread"]
SWITCH = ["labels", "side", "run", "fuses", "before", "before ±", "after", "after ±", "difference", "difference ±"]
SWITCH += ["fell in", "n"]


# Tables


def points_table() -> pd.DataFrame:
    """Every point: what the paper says, what the code does and where, and what had been said of it before."""
    lines = [
        {"#": p.number, "point": p.point, "paper": p.paper or "-", "code": p.code, "where": p.where}
        | {"verdict": p.verdict}
        for p in discrepancies.load()
    ]
    return pd.DataFrame(lines)


def effects_table(records: Sequence[Mapping], study: Profile) -> pd.DataFrame:
    """Every point: how its effect is known, and what it is."""
    lines = []
    for p in discrepancies.load():
        known = [(_toggle(study, name), toggled(records, study, name)) for name in p.toggle]
        known += [("measured", read_otherwise(records, study, p.view))] if p.view else []
        known += [("computed", discrepancies.COMPUTED[p.computed]())] if p.computed else []
        known += [("argued", p.argued.strip())] if p.argued else []
        ways, said = zip(*known)
        line = {"#": p.number, "point": p.point, "known": "\n".join(dict.fromkeys(ways))}
        lines.append(line | {"effect": " ".join(said)})
    return pd.DataFrame(lines)


def ladder_table(records: Sequence[Mapping], study: Profile) -> pd.DataFrame:
    """Both ends, and from each of them one point at a time towards the other, a line each.

    difference: over the end that the line starts from (for the code's end: over SIT-FER), paired by seed, ± standard
    deviation of the pairs. p: sign-flip test; Holm's correction over the lines of one budget with two pairs or more.
    than the spread: whether the mean difference is larger than that standard deviation.
    """
    lines = []
    for labels in ladder.budgets(study):
        block = []
        for rung in ladder.rungs(study, labels):
            ours, d = ladder.accuracies(records, rung), ladder.differences(records, rung)
            line = {"labels": labels, "side": rung.side, "#": discrepancies.of_rung(rung.name)}
            line |= {"change": rung.said}
            line |= tables.with_spread("ours", ours) | tables.with_spread("difference", d)
            line |= {"p": significance.p_value(d) if len(d) > 1 else float("nan"), "p, Holm": float("nan")}
            line |= {"n": len(ours), "failed": ladder.failed(records, rung)}
            block.append(line | {"than the\nspread": ladder.compared(d) if d else ""})
        tested = [line for line in block if line["p"] == line["p"]]
        for line, p in zip(tested, significance.holm([line["p"] for line in tested])):
            line["p, Holm"] = p
        lines += block
    return pd.DataFrame(lines, columns=LADDER)


def switch_table(records: Sequence[Mapping], study: Profile) -> pd.DataFrame:
    """Share of unlabelled faces that pass (%), before and after 15/80 of the training (points 8, 9): rungs that ran.

    A share in the history is a mean over the steps since the evaluation before. before: the last such window that lay
    mainly before the switch; after: the first that lay wholly behind it. fell in: so many of the n runs.
    """
    lines = []
    for labels in ladder.budgets(study):
        for rung in ladder.rungs(study, labels):
            if found := crossings(records, rung):
                line = {"labels": labels, "side": rung.side, "run": rung.said}
                line |= {"fuses": "logits" if rung.switches else "probabilities"}
                line |= tables.with_spread("before", [100 * before.kept for before, _ in found])
                line |= tables.with_spread("after", [100 * after.kept for _, after in found])
                line |= tables.with_spread("difference", [100 * (after.kept - before.kept) for before, after in found])
                lines.append(line | {"fell in": sum(map(_fell, found)), "n": len(found)})
    return pd.DataFrame(lines, columns=SWITCH)


def readings_table(records: Sequence[Mapping], study: Profile) -> pd.DataFrame:
    """The same runs read as the code reads them: by the fused levels (point 13), at the best epoch on the test faces.

    Both as differences from the classifier's mean of the last five evaluations, over the n runs of a line.
    """
    lines = []
    for labels in ladder.budgets(study):
        here = ladder.rungs(study, labels)
        for side in (PAPER, CODE, UP, DOWN):
            found = finished(records, [rung for rung in here if rung.side == side])
            line = {"labels": labels, "runs": side if side in (PAPER, CODE) else f"{side}, all"}
            line |= tables.with_spread("ours", [published.measure(record) for record in found])
            for name, title in (("fused", "fused head"), ("best", "best on test")):
                line |= tables.with_spread(f"{title}\ndifference", reading(found, name))
            lines.append(line | {"n": len(found)})
    return pd.DataFrame(lines)


# Sentences


def answer(records: Sequence[Mapping], study: Profile) -> str:
    """How far the ends are apart, which points do more than the spread, and what coverage did at the switch."""
    if not store.finished(records).keys() & {config.key for config in plan.runs(study, ladder.NOTEBOOK)}:
        return "Not run: there is no finished run yet. What follows by arithmetic stands below."
    sentences = []
    for labels in ladder.budgets(study):
        _, code, *others = ladder.rungs(study, labels)
        sentences.append(f"With {labels:,} labels of {tables.data_name(study.dataset)}: {told(records, code)}")
        sentences.append(largest({rung: ladder.differences(records, rung) for rung in others}))
    return " ".join([*sentences, predicted(records, study)])


def largest(measured: Mapping[Rung, Sequence[float]]) -> str:
    """Which single points do more than the spread; with one seed, which does most."""
    known = {rung: d for rung, d in measured.items() if d}
    several = {rung: d for rung, d in known.items() if len(d) > 1}
    if several:
        large = [f"{rung.said} ({rung.side})" for rung, d in several.items() if ladder.compared(d) == LARGER]
        named = f": {'; '.join(large)}" if large else ""
        return f"Of {len(several)} single points {len(large)} do more than the spread{named}."
    if not known:
        return "No single point has run."
    rung, (d,) = max(known.items(), key=lambda item: abs(item[1][0]))
    return (
        f"Of {len(known)} single points the largest difference is {d:+.2f} points ({rung.said}, {rung.side}); whether "
        f"it is larger than the spread cannot be said from one seed."
    )


def beyond(records: Sequence[Mapping], study: Profile, noise: float) -> str:
    """Which differences are larger than `noise`, the points by which a run moves when it is made again (again.py)."""
    if not noise:
        return "No run was made again, so how far rounding alone moves one is not known."
    rungs = [rung for labels in ladder.budgets(study) for rung in ladder.rungs(study, labels)[1:]]
    known = {rung: statistics.fmean(d) for rung in rungs if (d := ladder.differences(records, rung))}
    large = [f"{rung.said or CODE} {d:+.2f}" for rung, d in known.items() if abs(d) > noise]
    said = f"lie {len(large)} of {len(known)} differences{': ' if large else ''}{'; '.join(large)}"
    return f"Beyond the {noise:.2f} points that a run moved by when it was made again unchanged {said}."


def told(records: Sequence[Mapping], rung: Rung) -> str:
    """How far a rung is from the end that it starts from, and whether these seeds can tell the two apart."""
    names = {CODE: (CODE, PAPER), UP: (rung.said, PAPER), DOWN: (rung.said, CODE)}
    return comparison.said(*names[rung.side], ladder.differences(records, rung))


def toggled(records: Sequence[Mapping], study: Profile, name: str) -> str:
    """What a rung of this name does, from both ends."""
    if name not in plan.rungs(study):
        return f"{SAID[name][0]}: nothing on {tables.data_name(study.dataset)}, whose faces are grey."
    rungs = [rung for labels in ladder.budgets(study) for rung in ladder.rungs(study, labels) if rung.name == name]
    return "; ".join(f"{rung.said} {rung.side}: {_mean(ladder.differences(records, rung))}" for rung in rungs) + "."


def read_otherwise(records: Sequence[Mapping], study: Profile, name: str) -> str:
    """What another reading of the two ends' runs adds to the reported number."""
    rungs = [rung for labels in ladder.budgets(study) for rung in ladder.rungs(study, labels)[:2]]
    found = {side: finished(records, [rung for rung in rungs if rung.side == side]) for side in (PAPER, CODE)}
    parts = [f"{side} {_mean(reading(some, name))}" for side, some in found.items()]
    kind = {"fused": "fused head over classifier", "best": "best on test over the mean of the last five"}[name]
    return f"{kind}: {', '.join(parts)}."


def predicted(records: Sequence[Mapping], study: Profile) -> str:
    """Point 9: coverage must fall where the second schedule begins. How often it did, with one and without."""
    rungs = [rung for labels in ladder.budgets(study) for rung in ladder.rungs(study, labels)]
    switching, others = (
        [pair for rung in rungs if rung.switches == switches for pair in crossings(records, rung)]
        for switches in (True, False)
    )
    if not switching:
        return "Whether coverage falls at the switch (point 9): not run."
    tested = [(before, after) for before, after in switching if before.kept or after.kept]
    fell, n, idle = sum(map(_fell, tested)), len(tested), len(switching) - len(tested)
    state = "could not be tested" if not n else "held" if fell == n else "held in part" if fell else "failed"
    said = f"The prediction of point 9 {state}: coverage fell at the switch in {fell} of {n} runs"
    said += f" ({idle} more kept nothing on either side)" if idle else ""
    beside = f"; over the same steps in {sum(map(_fell, others))} of {len(others)} runs without a switch"
    return f"{said}{beside if others else ''}."


def resolution(study: Profile) -> str:
    """What the evaluations can show of the switch."""
    config = plan.base(study)[0]
    window, at = config.steps / config.evaluations, audit.SWITCH * config.steps
    share = 100 * (at % window) / window
    around = f"the window around it lies to {share:.1f} % before it" if share else "a boundary falls on it"
    multiple = Fraction(audit.SWITCH).limit_denominator(100).denominator
    finer = f" {multiple} evaluations would put a boundary there, in runs of another key." if share else ""
    return (
        f"{config.steps:,} steps, an evaluation every {window:g}, the switch after step {at:g}: {around}, and what is "
        f"over within {window:g} steps cannot be seen.{finer}"
    )


def reach(records: Sequence[Mapping], study: Profile) -> str:
    """How many points were measured, and what the seeds can tell apart."""
    lines = []
    for labels in ladder.budgets(study):
        found = [ladder.differences(records, rung) for rung in ladder.rungs(study, labels)[1:]]
        several = [d for d in found if len(d) > 1]
        where, ran = f"{tables.data_name(study.dataset)}/{labels}", sum(map(bool, found))
        line = f"{where}: {ran} of {len(found)} differences measured"
        if several:
            n, needed = max(map(len, several)), significance.seeds_needed(len(several), comparison.ALPHA)
            line += f"; {n} seeds reach no p below {significance.least_p(n):.3g}, {len(several)} differences need "
            line += f"{needed} seeds to pass Holm's correction at {comparison.ALPHA}"
        elif ran:
            line += "; which of them is larger than the spread cannot be said: one seed has none"
        lines.append(f"{line}.")
    return "\n".join(lines)


# Parts


def finished(records: Iterable[Mapping], rungs: Iterable[Rung]) -> list[Mapping]:
    """The finished records of these rungs' runs."""
    done = store.finished(records)
    return [done[config.key] for rung in rungs for config in rung.runs if config.key in done]


def crossings(records: Iterable[Mapping], rung: Rung) -> list[tuple[ladder.Window, ladder.Window]]:
    """What passed on either side of the switch, for every finished run that was evaluated on both."""
    return [pair for record in finished(records, [rung]) if (pair := ladder.windows(record))]


def reading(found: Iterable[Mapping], name: str) -> list[float]:
    """What another reading adds to the reported number, in points; a run without fused levels is left out."""
    other = {"fused": {"head": "fused"}, "best": {"which": "best_on_test"}}[name]
    found = [record for record in found if name == "best" or record["metrics"]["fused"]]
    return [published.measure(record, **other) - published.measure(record) for record in found]


def _fell(crossing: tuple[ladder.Window, ladder.Window]) -> bool:
    before, after = crossing
    return after.kept < before.kept


def _toggle(study: Profile, name: str) -> str:
    """Grey faces have no colours to measure."""
    return "measured" if name in plan.rungs(study) else "argued"


def _mean(d: Sequence[float]) -> str:
    """Mean of differences (points) beside their spread."""
    if not d:
        return published.NOT_RUN
    if len(d) == 1:
        return f"{d[0]:+.2f} (one seed)"
    word = {LARGER: "larger than the spread", WITHIN: "within the spread"}[ladder.compared(d)]
    return f"{statistics.fmean(d):+.2f} ± {statistics.stdev(d):.2f} ({word})"
