"""How far a number moves when no configuration is changed: the runs that were made once more.

A run is a function of its configuration only as far as rounding allows. Another processor, the precision that "auto"
finds there, or another order of a sum in the code changes last digits; a pre-training, two thousand steps and two
thresholds amplify them. A difference between two runs that is no larger than this cannot be told from making one of
them again. Where the start was made again too, differences are taken between runs of one start file (records.alike).
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from fercore.analysis import claims as published
from fercore.analysis import tables
from fercore.study import records as store
from fercore.study.profiles import Profile

COLUMNS = ["labels", "row", "seed", "here", "again", "difference", "start", "from", "to"]


def pairs(study: Profile) -> list[tuple[Mapping, Mapping]]:
    """(the run that the tables show, the same run made again), in the order in which they were made again."""
    here = {r["key"]: r for r in store.with_repeats(study.records) if r["kind"] == "run" and r.get("repeats")}
    again = [r for r in store.read(study.records) if r["key"] in here]
    return [(here[r["key"]], r) for r in again if r in here[r["key"]]["repeats"]]


def differences(found: Sequence[tuple[Mapping, Mapping]]) -> list[float]:
    """Points of accuracy, again minus here, pair by pair."""
    return [published.measure(again) - published.measure(here) for here, again in found]


def largest(found: Sequence[tuple[Mapping, Mapping]]) -> float:
    """The largest of these differences, whatever its sign; 0 where no run was made again."""
    return max(map(abs, differences(found)), default=0.0)


def table(found: Sequence[tuple[Mapping, Mapping]]) -> pd.DataFrame:
    """Both numbers of each pair, whether its start was made again too, and the machines."""
    lines = []
    for (here, again), difference in zip(found, differences(found)):
        config = here["config"]
        options = (f"{name} {value}" for name, value in config["options"].items())
        lines.append(
            {
                "labels": config["labels"],
                "row": " ".join([tables.row_name(config["method"]), *options]),
                "seed": config["seed"],
                "here": published.measure(here),
                "again": published.measure(again),
                "difference": difference,
                "start": "the same file" if here["start"]["sha256"] == again["start"]["sha256"] else "made again",
                "from": _machine(here),
                "to": _machine(again),
            }
        )
    return pd.DataFrame(lines, columns=COLUMNS)


def _machine(record: Mapping) -> str:
    return "{device}, {precision}".format(**record["provenance"])


def said(found: Sequence[tuple[Mapping, Mapping]]) -> str:
    """How many runs were made again, and by how much they moved."""
    moved = [abs(d) for d in differences(found)]
    if not moved:
        return f"Runs made again unchanged: {published.NOT_RUN}."
    if len(moved) == 1:
        return f"One run, made again unchanged, moved by {moved[0]:.2f} points."
    by = f"{min(moved):.2f} to {max(moved):.2f} points"
    return f"{len(moved)} runs, made again unchanged, moved by {by}. A change no larger says nothing."
