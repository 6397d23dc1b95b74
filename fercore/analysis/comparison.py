"""Table I: every method on one protocol, ours beside the published, and which differences the seeds can tell apart.

As report.py: tables and sentences made from records and published claims, percentages throughout. Nothing is
written here but the rows' names. Statistics are in paired.py, figures in comparison_figures.py.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from fercore.analysis import claims as published
from fercore.analysis import significance, tables
from fercore.analysis.claims import Claim
from fercore.analysis.tables import Row

NAMES = {
    "supervised": "Labels only",
    "pseudolabel": "Pseudo-Labeling",
    "mixmatch": "MixMatch",
    "uda": "UDA",
    "remixmatch": "ReMixMatch",
    "marginmix": "MarginMix, reconstructed",
    "fixmatch": "FixMatch",
    "adacm": "Ada-CM",
    "lion": "LION-style, reconstructed",
    "sitfer": "SIT-FER",
    "flexmatch": "FlexMatch",  # from here on: rows that the paper omits
    "simmatch": "SimMatch",
    "freematch": "FreeMatch",
}
TABLE, REFERENCE = "sit-fer/I", "sitfer"
ROWS = tuple(Row(method, name, (), TABLE) for method, name in NAMES.items())
FULL = Row("fullysupervised", "All labels (same network)", (), "")  # trains on another budget: in no rank and no pair
ALIGNS = {"remixmatch": "targets", "sitfer": "targets", "simmatch": "targets", "freematch": "by a loss"}
ALPHA = 0.05
ALIKE, ABOVE, BELOW, ONE_SEED = "not distinguishable", "above", "below", "one seed"

# The printed views of `table1`: each fits a notebook's width.
MAIN = ["data", "method", "published", "published ±", "on", "its\nrank"]
MAIN += ["ours", "ours ±", "best on test", "best on test ±", "our\nrank", "n", "failed"]
DETAIL = ["data", "method", "seeds", "last", "last ±", "fused head", "fused head ±"]
PAIRED = ["data", "method", "n", "difference", "spread", "lower", "upper", "p", "p, Holm", "than SIT-FER"]


# Which runs


def grounds(records: Iterable[Mapping], labels: Sequence[int] | int | None = None) -> list[tuple[str, int]]:
    """(data set, budget), by default all that occur; a run on all labels has no budget."""
    records = list(records)
    budgets = [budget for budget in tables.budgets(records, labels) if budget]
    return [(dataset, budget) for dataset in datasets(records) for budget in budgets]


def datasets(records: Iterable[Mapping]) -> list[str]:
    """The data sets that were trained on, in the order of the records."""
    return list(dict.fromkeys(r["config"]["dataset"] for r in tables.runs(records)))


def here(records: Iterable[Mapping], dataset: str) -> list[Mapping]:
    """The runs on one data set."""
    return [r for r in tables.runs(records) if r["config"]["dataset"] == dataset]


def beside(dataset: str, labels: int) -> str:
    """The column of the published table to set beside ours: of the same data set, else RAF-DB; the nearest budget."""
    columns = {c.column: c for c in _cells().values()}
    own = {name: c for name, c in columns.items() if c.dataset == dataset}
    own = own or {name: c for name, c in columns.items() if c.dataset == "rafdb"}
    return min(own, key=lambda name: abs(math.log(own[name].labels / labels)))


# Tables


def table1(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> pd.DataFrame:
    """Table I: one line for each data set, budget and method.

    published, on, its rank: the paper's cell, its data set and budget, its rank among the paper's rows. ours:
    classifier, mean of the last five evaluations, mean and standard deviation over n seeds. best on test: chosen on
    the test split, which is the papers' way; no other column does so. our rank: among the methods that ran, over the
    seeds that all share. All labels: one line for each data set, unranked; the paper's counterpart is another network
    and stands nowhere here.
    """
    lines = []
    for dataset, budget in grounds(records, labels):
        column = beside(dataset, budget)
        theirs = {row.method: cell.value for row in ROWS if (cell := _cell(row, column))}
        ranks, our_ranks = _ranks(theirs), _ranks(means(records, dataset, budget))
        for row in ROWS:
            cell = _cell(row, column)
            line = {"data": f"{tables.data_name(dataset)}/{budget}", "method": row.name}
            line |= {"published": cell.value, "published ±": cell.spread} if cell else {}
            line |= {"on": tables.heading(column, "/"), "its\nrank": ranks.get(row.method)} if cell else {"on": ""}
            lines.append(line | {"our\nrank": our_ranks.get(row.method)} | _ours(records, row, dataset, budget))
    for dataset in datasets(records):
        line = {"data": f"{tables.data_name(dataset)}/all", "method": FULL.name, "on": ""}
        lines.append(line | _ours(records, FULL, dataset, 0))
    return pd.DataFrame(lines, columns=[*dict.fromkeys([*MAIN[:-2], *DETAIL, *MAIN[-2:]])])


def paired_table(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> pd.DataFrame:
    """Every method against SIT-FER: accuracy differences (points) over runs of equal seed, split, start and steps.

    difference: method - SIT-FER, mean over n pairs. spread: standard deviation of the pairs. lower, upper: 95 %
    bootstrap interval. p: sign-flip permutation test; Holm's correction over the comparisons of one budget that have
    two pairs or more. than SIT-FER: above or below where the corrected p is at most ALPHA.
    """
    lines = []
    for dataset, budget in grounds(records, labels):
        block = []
        for row in ROWS:
            if row.method != REFERENCE:
                d = differences(records, row.method, dataset, budget)
                low, high = significance.interval(d)
                line = {"data": f"{tables.data_name(dataset)}/{budget}", "method": row.name, "n": len(d)}
                line |= {"difference": statistics.fmean(d) if d else math.nan, "lower": low, "upper": high}
                line |= {"spread": statistics.stdev(d) if len(d) > 1 else math.nan, "p": significance.p_value(d)}
                line |= {"p, Holm": math.nan, "than SIT-FER": ONE_SEED if d else published.NOT_RUN}
                block.append(line | {"pairs": " ".join(f"{x:+.2f}" for x in d)})
        tested = [line for line in block if line["n"] > 1]
        for line, p in zip(tested, significance.holm([line["p"] for line in tested])):
            side = ABOVE if line["difference"] > 0 else BELOW
            line |= {"p, Holm": p, "than SIT-FER": side if p <= ALPHA else ALIKE}
        lines += block
    return pd.DataFrame(lines, columns=[*PAIRED, "pairs"])


def ranks_table(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> pd.DataFrame:
    """Ranks of the methods that ran, budget by budget; beside them the mean rank over the paper's columns."""
    columns = dict.fromkeys(c.column for c in _cells().values())
    theirs = [_ranks({row.method: c.value for row in ROWS if (c := _cell(row, column))}) for column in columns]
    ours = {
        f"{tables.data_name(dataset)}\n{budget}\nrank": _ranks(values)
        for dataset, budget in grounds(records, labels)
        if (values := means(records, dataset, budget))
    }
    lines = []
    for row in ROWS:
        mine = {ground: ranks.get(row.method) for ground, ranks in ours.items()}
        known, published_ranks = [r for r in mine.values() if r], [r[row.method] for r in theirs if row.method in r]
        if known:
            line = {"method": row.name, "published\nmean rank": _mean_rank(published_ranks), **mine}
            lines.append(line | {"our\nmean rank": _mean_rank(known) if len(known) == len(mine) else math.nan})
    return pd.DataFrame(lines, columns=["method", "published\nmean rank", *ours, "our\nmean rank"])


def balance_table(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> pd.DataFrame:
    """Accuracy beside macro F1, the gap between them, and the class that is recalled least; rows that ran.

    aligns: whether the method moves its pseudo-labels towards a class distribution, and how.
    """
    lines = []
    for dataset, budget in [*grounds(records, labels), *((dataset, 0) for dataset in datasets(records))]:
        for row in ROWS if budget else (FULL,):
            done = tables.ran(here(records, dataset), row.method, budget)
            if done:
                line = {"data": f"{tables.data_name(dataset)}/{budget or 'all'}", "method": row.name}
                line |= {"aligns": ALIGNS.get(row.method, "")}
                line |= tables.with_spread("accuracy", [published.measure(r) for r in done])
                line |= tables.with_spread("macro F1", [published.measure(r, "macro_f1") for r in done])
                recall = np.mean([r["metrics"]["classifier"]["last"]["recall"] for r in done], axis=0)
                line |= {"gap": line["accuracy"] - line["macro F1"], "least recalled": 100 * recall.min()}
                lines.append(line | {"class": done[0]["data"]["classes"][recall.argmin()]})
    spreads = ["accuracy", "accuracy ±", "macro F1", "macro F1 ±"]
    return pd.DataFrame(lines, columns=["data", "method", "aligns", *spreads, "gap", "least recalled", "class"])


def benchmark_table(records: Sequence[Mapping], table: str) -> pd.DataFrame:
    """Another published table, row by row, with ours beside each column where data set and budget are the same."""
    lines: dict[str, dict] = {}
    for cell in published.load():
        if cell.kind == "value" and cell.id.startswith(f"{table} "):
            line = lines.setdefault(cell.row, {"method": cell.says})
            line[tables.heading(cell.column)] = cell.value
            done = tables.ran(here(records, cell.dataset), cell.row, cell.labels)
            line |= tables.with_spread(f"ours on\n{cell.labels}", [published.measure(r) for r in done])
    return pd.DataFrame(lines.values())


def transfer_table(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> pd.DataFrame:
    """Trained on one data set, tested on others, over the classes that both have: a column for each of the others."""
    targets = list(dict.fromkeys(r["config"]["dataset"] for r in transfers(records)))
    titles = {target: f"ours on\n{tables.data_name(target)}" for target in targets}
    lines = []
    for dataset, budget in grounds(records, labels) if targets else []:
        for row in ROWS:
            if done := tables.ran(here(records, dataset), row.method, budget):
                line = {"data": f"{tables.data_name(dataset)}/{budget}", "method": row.name}
                line |= tables.with_spread("ours", [published.measure(r) for r in done])
                for target, title in titles.items():
                    found = transfers(records, {r["key"] for r in done}, target)
                    line |= tables.with_spread(title, [100 * r["metrics"]["accuracy"] for r in found])
                lines.append(line | {"n": len(done)})
    columns = [part for title in ("ours", *titles.values()) for part in (title, f"{title} ±")]
    return pd.DataFrame(lines, columns=["data", "method", *columns, "n"])


def scores_table(records: Sequence[Mapping], rows: Sequence[Row] = ROWS) -> pd.DataFrame:
    """Ours alone, for any rows, a reader's own among them: one line for each that ran, first the most accurate."""
    lines = []
    for row in rows:
        if done := tables.ran(records, row.method):
            line = {"method": row.name} | tables.with_spread("ours", [published.measure(r) for r in done])
            line |= tables.with_spread("macro F1", [published.measure(r, "macro_f1") for r in done])
            line |= tables.with_spread("best on test", [published.measure(r, which="best_on_test") for r in done])
            lines.append(line | {"seeds": " ".join(f"{published.measure(r):.2f}" for r in done), "n": len(done)})
    columns = [part for title in ("ours", "macro F1", "best on test") for part in (title, f"{title} ±")]
    table = pd.DataFrame(lines, columns=["method", *columns, "seeds", "n"])
    return table.sort_values("ours", ascending=False, kind="stable", ignore_index=True)


# Sentences


def told(records: Sequence[Mapping], above: Row, below: Row) -> str:
    """How far one row is from another, seed by seed, and whether these seeds could tell the two apart."""
    d = published.differences(tables.ran(records), {"method": below.method}, {"method": above.method})
    return said(above.name, below.name, list(d.values()))


def said(above: str, below: str, d: Sequence[float]) -> str:
    """The same of differences that are at hand."""
    if not d:
        return f"{above} against {below}: not run."
    points = f"{above} against {below}: {', '.join(f'{x:+.2f}' for x in d)} points, seed by seed"
    if len(d) == 1:
        return f"{points}; one seed has no spread, so nothing can be distinguished."
    p, needed = significance.p_value(d), significance.seeds_needed(1, ALPHA)
    few = f", and {len(d)} seeds reach no p below 2/{2 ** len(d)} ({needed} are needed)" if len(d) < needed else ""
    side = (ABOVE if statistics.fmean(d) > 0 else BELOW) if p <= ALPHA else ALIKE
    return f"{points}; sign-flip test p = {p:.2f}: {side}{few}."


def answer(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> str:
    """Table I's answer, a sentence or two for each budget: who leads, where SIT-FER stands, what can be told apart."""
    if not tables.ran(records):
        return "Not run: there is no finished run yet."
    sentences = []
    for dataset, budget in grounds(records, labels):
        ours, names = means(records, dataset, budget), dict(NAMES)
        where = f"{budget:,} labels of {tables.data_name(dataset)}"
        if not ours:
            sentences.append(f"With {where}: not run.")
            continue
        best, rank = max(ours, key=ours.__getitem__), _ranks(ours).get(REFERENCE)
        seeds = ", ".join(map(str, shared_seeds(records, dataset, budget)))
        on = f"on the seeds that all share ({seeds})" if seeds else "on seeds that differ"
        first = f"With {where}, {on}, {names[best]} leads {len(ours)} methods with {ours[best]:.2f} %"
        stands = f", and SIT-FER is number {rank} with {ours[REFERENCE]:.2f} %" if rank and best != REFERENCE else ""
        sentences.append(f"{first}{stands}; {_told_apart(records, dataset, budget)}.")
        if idle := tables.idle_rows(here(records, dataset), budget, ROWS):
            sentences.append(f"But no pseudo-label passed the threshold in: {'; '.join(idle)}.")
    return " ".join(sentences)


def reach(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> str:
    """What the test can tell with the seeds there are: a line for each budget."""
    lines = []
    for dataset, budget in grounds(records, labels):
        found = [differences(records, row.method, dataset, budget) for row in ROWS if row.method != REFERENCE]
        tested, where = [d for d in found if len(d) > 1], f"{tables.data_name(dataset)}/{budget}"
        if not tested:
            said = "one seed: no spread, so nothing can be distinguished" if any(found) else published.NOT_RUN
            lines.append(f"{where}: {said}.")
            continue
        n, k = max(map(len, tested)), len(tested)
        large = sum(abs(statistics.fmean(d)) > statistics.stdev(d) for d in tested)
        needed = significance.seeds_needed(k, ALPHA)
        reached = f"{n} seeds reach no p below 2/{2**n} = {significance.least_p(n):.3g}"
        verdict = f"{needed} seeds are needed before any of {k} comparisons can pass Holm's correction at {ALPHA}"
        none = "" if n >= needed else ", so here nothing can be called distinguishable, however large"
        lines.append(f"{where}: larger than their spread: {large} of {k} differences. {reached}; {verdict}{none}.")
    return "\n".join(lines) or "no runs"


def agreement(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> str:
    """How many pairs of methods stand in the published order: a line for each budget with two such methods."""
    lines = []
    for dataset, budget in grounds(records, labels):
        column, ours = beside(dataset, budget), means(records, dataset, budget)
        both = [(cell.value, ours[row.method]) for row in ROWS if (cell := _cell(row, column)) and row.method in ours]
        pairs = [(a[0] - b[0]) * (a[1] - b[1]) > 0 for i, a in enumerate(both) for b in both[:i]]
        if pairs:
            where = f"{tables.data_name(dataset)}/{budget}"
            lines.append(
                f"{where}: {sum(pairs)} of {len(pairs)} pairs of methods stand in the order published for "
                f"{tables.heading(column, '/')}; chance alone would give about half."
            )
    return "\n".join(lines) or f"order: {published.NOT_RUN}"


def balance(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> str:
    """What alignment buys and costs: mean accuracy and macro F1 of the methods that align, and of those that do not."""
    lines = []
    for data, block in balance_table(records, labels).groupby("data", sort=False):
        rows = block[~block["method"].isin([NAMES["supervised"], FULL.name])]
        parts = []
        for name, some in (("aligning", rows[rows["aligns"] != ""]), ("not aligning", rows[rows["aligns"] == ""])):
            if len(some):
                mean = some[["accuracy", "macro F1", "gap"]].mean()
                parts.append(
                    f"{name} ({len(some)}) accuracy {mean['accuracy']:.2f}, macro F1 {mean['macro F1']:.2f}, "
                    f"gap {mean['gap']:.2f}"
                )
        if len(parts) == 2:
            lines.append(f"{data}, means of the semi-supervised methods: {'; '.join(parts)}.")
    return "\n".join(lines) or "No methods of both kinds have run at one budget."


def bound(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> str:
    """How far SIT-FER stays below the same network trained on every label: the like-for-like upper bound."""
    lines = []
    for dataset in datasets(records):
        full = [published.measure(r) for r in tables.ran(here(records, dataset), FULL.method)]
        if not full:
            lines.append(f"{FULL.name}, {tables.data_name(dataset)}: {published.NOT_RUN}.")
            continue
        found = {b: means(records, dataset, b).get(REFERENCE) for d, b in grounds(records, labels) if d == dataset}
        gaps = [f"{x - statistics.fmean(full):+.2f} points with {b:,} labels" for b, x in found.items() if x]
        said = f"SIT-FER from there {tables.series(gaps)}" if gaps else f"SIT-FER {published.NOT_RUN}"
        value = f"{statistics.fmean(full):.2f} % (n = {len(full)})"
        lines.append(f"{FULL.name}, {tables.data_name(dataset)}: {value}; {said}.")
    return "\n".join(lines) or f"{FULL.name}: {published.NOT_RUN}."


def transferred(records: Sequence[Mapping]) -> str:
    """On which other faces the runs were tested, and over which classes."""
    found = {r["config"]["dataset"]: r["metrics"] for r in transfers(records)}
    if not found:
        return "Other data sets: not run."
    lines = []
    for name, metrics in found.items():
        classes = metrics["classes"] if isinstance(metrics["classes"], int) else len(metrics["classes"])
        lines.append(f"{tables.data_name(name)}: {metrics['n']:,} faces of the {classes} classes that both sets have.")
    return "\n".join(lines)


# Parts


def shared_seeds(records: Iterable[Mapping], dataset: str, labels: int) -> list[int]:
    """Seeds that every method with a run of this budget has: means over others would compare seeds, not methods."""
    some = here(records, dataset)
    seeds = [{r["config"]["seed"] for r in tables.ran(some, row.method, labels)} for row in ROWS]
    return sorted(set.intersection(*found)) if (found := [s for s in seeds if s]) else []


def means(records: Iterable[Mapping], dataset: str, labels: int) -> dict[str, float]:
    """Mean accuracy of every method that ran with this budget, over the seeds that all of them share."""
    some, seeds = here(records, dataset), shared_seeds(records, dataset, labels)
    runs = {row.method: tables.ran(some, row.method, labels) for row in ROWS}
    runs = {m: [r for r in done if not seeds or r["config"]["seed"] in seeds] for m, done in runs.items()}
    return {method: statistics.fmean(map(published.measure, done)) for method, done in runs.items() if done}


def differences(records: Iterable[Mapping], method: str, dataset: str, labels: int) -> list[float]:
    """Points of a method over SIT-FER, pair by pair, in the order of the seeds."""
    done = tables.ran(here(records, dataset), labels=labels)
    return list(published.differences(done, {"method": REFERENCE}, {"method": method}).values())


def transfers(records: Iterable[Mapping], keys: set[str] | None = None, target: str | None = None) -> list[Mapping]:
    """Finished tests on another data set, of these runs and on this data set where given; the last of a key counts."""
    found = {r["key"]: r for r in records if r["kind"] == "transfer" and r["status"] == "finished"}.values()
    found = [r for r in found if target in (None, r["config"]["dataset"])]
    return [r for r in found if keys is None or tables.run_key(r) in keys]


def _ours(records: Sequence[Mapping], row: Row, dataset: str, labels: int) -> dict:
    some = here(records, dataset)
    done = [r for r in tables.ran(some, row.method) if r["config"]["labels"] == labels]
    failed = [r for r in tables.runs(some, row.method) if r["config"]["labels"] == labels and r["status"] == "failed"]
    line = tables.with_spread("ours", [published.measure(r) for r in done])
    line["seeds"] = " ".join(f"{published.measure(r):.2f}" for r in done)
    line |= tables.with_spread("last", [published.measure(r, which="last") for r in done])
    fused = [published.measure(r, head="fused") for r in done if r["metrics"]["fused"]]
    line |= tables.with_spread("fused head", fused)
    line |= tables.with_spread("best on test", [published.measure(r, which="best_on_test") for r in done])
    return line | {"n": len(done), "failed": len(failed)}


def _told_apart(records: Sequence[Mapping], dataset: str, labels: int) -> str:
    """Which methods differ from SIT-FER by more than the seeds' spread, as half a sentence."""
    table = paired_table(here(records, dataset), labels)
    seen = table[table["n"] > 0]
    if not len(seen):
        return "there is no pair of runs to compare with SIT-FER"
    tested = seen[seen["n"] > 1]
    if not len(tested):
        return "one seed has no spread, so nothing can be distinguished"
    sides = {side: list(tested[tested["than SIT-FER"] == side]["method"]) for side in (ABOVE, BELOW)}
    n, k = int(tested["n"].max()), len(tested)
    alike = k - sum(map(len, sides.values()))
    if alike == k and n < significance.seeds_needed(k, ALPHA):
        return (
            f"no difference from SIT-FER can be distinguished, as {n} seeds reach no p below 2/{2**n} "
            f"({k} comparisons need {significance.seeds_needed(k, ALPHA)} seeds)"
        )
    parts = [f"{side} it: {', '.join(names)}" for side, names in sides.items() if names]
    return "; ".join([f"{ALIKE} from SIT-FER: {alike} of {k} methods", *parts])


def _cells() -> dict[str, Claim]:
    return {c.id: c for c in published.load() if c.kind == "value" and c.id.startswith(f"{TABLE} ")}


def _cell(row: Row, column: str) -> Claim | None:
    return _cells().get(f"{TABLE} {row.method} {column}")


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """1 for the largest; equal values share the better rank."""
    return {name: 1 + sum(other > value for other in values.values()) for name, value in values.items()}


def _mean_rank(ranks: Sequence[int]) -> float:
    return statistics.fmean(ranks) if ranks else math.nan
