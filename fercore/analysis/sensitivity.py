"""How much of SIT-FER's gain hangs on what its paper does not state, and what frequent classes do to its memory.

Tables and sentences of the sensitivity page; its settings are those of around.py.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from fercore.analysis import ablations, comparison, tables
from fercore.analysis import claims as published
from fercore.analysis.ablations import TAIL, Setting

# Tables


def gains(found: Iterable[Setting]) -> pd.DataFrame:
    """The numbers of the tornado: constants by how far they move the gain over FixMatch, widest first.

    gain: SIT-FER over FixMatch. change: of the gain from the base's, paired over seeds; width: from the least to the
    largest change of the constant, the base's 0 included.
    """
    lines = []
    for labels, axis, here in bars(found):
        for s in here:
            line = {"labels": labels, "constant": axis, "value": s.value + (" (base)" if s.chosen else "")}
            line |= ablations.result(s) | ablations.paired("gain", s.gain())
            if not s.chosen:
                line |= ablations.paired("change", s.change()) | {"width": width(here)}
            lines.append(line)
    columns = ["labels", "constant", "value", *ablations.spread("ours", "gain", "change"), "width", "n", "failed"]
    return pd.DataFrame(lines, columns=columns)


def votes_table(found: Iterable[Setting]) -> pd.DataFrame:
    """What a class's slots are worth together: accuracy, macro F1, and what lies between them."""
    lines = []
    for s in ablations.on(found, ["vote"]):
        line = {"labels": s.labels, "vote": s.value} | ablations.result(s)
        line |= tables.with_spread("macro F1", ablations.measures(s, "macro_f1"))
        line |= ablations.paired("of macro F1\ndifference", {} if s.chosen else s.difference("macro_f1"))
        lines.append(line | {"kept": ablations.tail(s.done, "kept"), "memory": ablations.memory(s.done)})
    columns = ["labels", "vote", *ablations.spread("ours", "difference", "macro F1", "of macro F1\ndifference")]
    return pd.DataFrame(lines, columns=[*columns, "kept", "memory", "n", "failed"])


def classes_table(found: Iterable[Setting]) -> pd.DataFrame:
    """By class, the most frequent first: share of the test faces, then for each vote the recall and what was kept.

    Recall is that of the last evaluation; kept is the class's share of the pseudo-labels in the loss, over the last
    five. Means over seeds.
    """
    ran = [s for s in ablations.on(found, ["vote"]) if s.done]
    lines = []
    for labels in dict.fromkeys(s.labels for s in ran):
        here = [s for s in ran if s.labels == labels]
        names, share = here[0].done[0]["data"]["classes"], frequencies(here[0].done)
        for k in np.argsort(-share, kind="stable"):
            line = {"labels": labels, "class": names[k], "of the faces": 100 * share[k]}
            line |= {f"recall\n{s.value}": 100 * recall(s.done)[k] for s in here}
            lines.append(line | {f"of the kept\n{s.value}": 100 * shares(s.done)[k] for s in here})
    heads = [f"{what}\n{s.value}" for what in ("recall", "of the kept") for s in ran]
    return pd.DataFrame(lines, columns=list(dict.fromkeys(["labels", "class", "of the faces", *heads])))


# Sentences


def robustness(found: Iterable[Setting]) -> str:
    """How the gain over FixMatch moves with the constants: its range, what moves it most, where its sign turns."""
    lines = []
    for where, here in ablations.grounds(found, None):
        plain = next((s for s in here if s.chosen and s.axis != ablations.RIVAL_RATE and s.gain()), None)
        ran = [s for s in moved(here) if s.change()]
        if plain is None or not ran:
            absent = "SIT-FER and FixMatch as they are" if plain is None else "the points"
            lines.append(f"{where}: {published.NOT_RUN}: there is no run of {absent}.")
            continue
        at = list(plain.gain().values())
        middle = statistics.fmean(at)
        gain = {s: middle + statistics.fmean(s.change().values()) for s in ran}
        least, most = min(gain, key=gain.__getitem__), max(gain, key=gain.__getitem__)
        wide = bars(here)[0]
        turned = [ablations.named(s) for s, points in gain.items() if (points > 0) != (middle > 0)]
        span = f"from {gain[least]:+.2f} ({ablations.named(least)}) to {gain[most]:+.2f} ({ablations.named(most)})"
        seeds = f"n = {len(at)}" + (f", spread over seeds {statistics.stdev(at):.2f}" if len(at) > 1 else "")
        tested = [c for s in ran if (c := published.judge("", "", "", s.labels, list(s.change().values()))).n > 1]
        large = sum(abs(c.gain) > c.needed for c in tested)
        lines.append(
            f"{where}: SIT-FER's gain over FixMatch is {middle:+.2f} points ({seeds}). One constant at a time moves it "
            f"{span}; {wide[1]} moves it most, by {width(wide[2]):.2f} points. "
            + (f"Its sign turns with {'; '.join(turned)}." if turned else "Its sign never turns.")
            + (
                f" Larger than its own spread allows: {large} of {len(tested)} changes."
                if tested
                else " One seed has no spread: a bar may be chance as well as effect."
            )
        )
    return "\n".join(lines) or f"Constants: {published.NOT_RUN}."


def balance(found: Iterable[Setting]) -> str:
    """What another vote than the sum does to macro F1, and to the most and the least frequent class."""
    lines = []
    for where, here in ablations.grounds(found, ["vote"]):
        base, *others = here
        if not base.done or not any(s.done for s in others):
            lines.append(f"{where}: {published.NOT_RUN}: a vote other than the sum is needed.")
            continue
        names, share = base.done[0]["data"]["classes"], frequencies(base.done)
        for s in others:
            d = list(s.difference("macro_f1").values())
            lines.append(f"{where}: {comparison.said(f'{s.value}, macro F1', base.value, d)}")
            if not d:
                continue
            ours, theirs = zip(*ablations.pairs(s.runs, base.runs).values())
            moved = 100 * (recall(ours) - recall(theirs))
            ends = [(what, int(k)) for what, k in (("most", share.argmax()), ("least", share.argmin()))]
            said = [f"{names[k]}, the {what} frequent, {moved[k]:+.1f}" for what, k in ends]
            lines.append(f"  recall of {tables.series(said)} points")
        given = base.done[0]["split"]["counts"]
        if max(given) - min(given) <= max(1, 0.01 * max(given)):
            lines.append(f"  {min(given)} to {max(given)} labels a class: given so evenly, prior is all but mean.")
    return "\n".join(lines) or f"Votes: {published.NOT_RUN}."


# Parts


def moved(found: Iterable[Setting]) -> list[Setting]:
    """The settings of the tornado that are not the base: unstated constants of SIT-FER."""
    return [s for s in found if not s.chosen and s.axis not in (ablations.RIVAL_RATE, "vote")]


def bars(found: Iterable[Setting]) -> list[tuple[int, str, list[Setting]]]:
    """(budget, axis, its settings) of the tornado, widest first; those that did not run last, in the plan's order."""
    found = list(found)
    rows = list(dict.fromkeys((s.labels, s.axis) for s in moved(found)))
    out = [(labels, axis, [s for s in found if (s.labels, s.axis) == (labels, axis)]) for labels, axis in rows]
    wide = [(-w if not math.isnan(w := width(here)) else math.inf) for _, _, here in out]
    order = sorted(range(len(out)), key=lambda i: (rows[i][0], wide[i]))
    return [out[i] for i in order]


def width(here: Iterable[Setting]) -> float:
    """From the least to the largest mean change on an axis, the base's 0 included; NaN where nothing ran."""
    ends = [statistics.fmean(s.change().values()) for s in here if not s.chosen and s.change()]
    return max(0.0, *ends) - min(0.0, *ends) if ends else math.nan


def recall(runs: Sequence[Mapping]) -> np.ndarray:
    """Recall of each class [k], last evaluation, mean over seeds."""
    return np.mean([r["metrics"]["classifier"]["last"]["recall"] for r in runs], axis=0)


def shares(runs: Sequence[Mapping]) -> np.ndarray:
    """Share of each class [k] among the kept pseudo-labels of the last evaluations, all seeds together."""
    counts = np.sum([h["pseudo_counts"] for r in runs for h in r["history"][-TAIL:]], axis=0)
    return counts / counts.sum() if counts.sum() else np.full(len(counts), math.nan)


def frequencies(runs: Sequence[Mapping]) -> np.ndarray:
    """Share of each class [k] among the test faces."""
    counts = np.sum(runs[0]["metrics"]["classifier"]["last"]["confusion"], axis=1)
    return counts / counts.sum()
