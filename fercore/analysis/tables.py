"""Tables and sentences, made from records and published claims. Figures are in figures.py.

Every function takes the list of records as `records.read` gives it (runs and pre-trainings, finished and failed) and
computes what it says: no result and no published number is written in this file. Percentages throughout. A ± after an
accuracy is the standard deviation over seeds, a ± after a gain is the standard error of the paired mean.
"""

import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from fercore import files
from fercore.analysis import claims as published
from fercore.analysis.claims import Claim, Comparison
from fercore.config import Run
from fercore.data.expressions import EXPRESSIONS
from fercore.fusion import divergence, entropy
from fercore.methods.api import METHODS, title
from fercore.study import records as store

LEVELS = ("semantic", "text", "instance", "fused")
TERMS = ("L_s", "sem", "text", "ins", "L_t")


@dataclass(frozen=True)
class Row:
    """A row of a table: a method, what it is called, which terms it has, where its published cells are."""

    method: str
    name: str
    terms: tuple[str, ...]
    table: str


# Table II, from the top down: from the third on, each row is the one above it and one thing more.
ROWS = (
    Row("supervised", "labels only", ("L_s",), "sit-fer/I"),
    Row("fixmatch", "FixMatch", ("L_s", "sem"), "sit-fer/I"),
    Row("sitfer/semantic", "semantic", ("L_s", "sem"), "sit-fer/II"),
    Row("sitfer/text", "+ text", ("L_s", "sem", "text"), "sit-fer/II"),
    Row("sitfer/instance", "+ instance", ("L_s", "sem", "text", "ins"), "sit-fer/II"),
    Row("sitfer", "+ L_t = SIT-FER", TERMS, "sit-fer/II"),
)
COLUMNS = {"rafdb/100": "RAF-DB/100", "sfew/400": "SFEW/400"}  # Table II's own
DATASETS = {
    "rafdb": "RAF-DB",
    "sfew": "SFEW",
    "affectnet": "AffectNet",
    "affwild2": "Aff-Wild2",
    "fer2013": "FER2013",
    "ckplus": "CK+",
    "expw": "ExpW",
    "facs": "rendered faces",
    "own": "own faces",
    "unstated": "data unstated",
}
IDLE = 0.1  # percent kept, over the last five evaluations, below which a row is called idle
SAID = {state: state for state in published.STATES} | {published.PARTLY: "partly reproduced"}


def _paired(*titles: str) -> list[str]:
    return [column for name in titles for column in (name, f"{name} ±")]


# The two printed views of `table2`: each fits a notebook's width.
MAIN = ["labels", "row", *TERMS, *_paired(*COLUMNS.values(), "ours", "gain"), "n", "failed"]
DETAIL = ["labels", "row", "seeds", *_paired("last", "fused head", "macro F1", "best on test")]


# Which runs


def own(methods: Iterable[str], rows: Sequence[Row] = ROWS) -> list[str]:
    """Those of a profile's methods that are rows of the table."""
    wanted = {row.method for row in rows}
    return [method for method in methods if method in wanted]


def of(records: Iterable[Mapping], grid: Iterable[Run]) -> list[Mapping]:
    """The records of these runs, of their transfers, and of every pre-training: the rest belongs to another table."""
    keys = {config.key for config in grid}
    return [r for r in records if r["kind"] == "pretrain" or run_key(r) in keys]


def runs(records: Iterable[Mapping], method: str | None = None, labels: int | None = None) -> list[Mapping]:
    """The runs, finished or not, of a method and a budget; of a key that failed and then finished, the finished one."""
    found = [r for r in records if r["kind"] == "run"]
    done = store.finished(found)
    last = {r["key"]: done.get(r["key"], r) for r in found}.values()
    wanted = {"method": method, "labels": labels}
    found = [r for r in last if all(r["config"][key] == value for key, value in wanted.items() if value is not None)]
    return sorted(found, key=lambda r: (r["config"]["labels"], r["config"]["method"], r["config"]["seed"]))


def ran(records: Iterable[Mapping], method: str | None = None, labels: int | None = None) -> list[Mapping]:
    """The finished runs of a method and a budget."""
    return [r for r in runs(records, method, labels) if r["status"] == "finished"]


def budgets(records: Iterable[Mapping], labels: Sequence[int] | int | None = None) -> list[int]:
    """The label budgets asked for, by default those that occur; ascending."""
    if labels is None:
        labels = [r["config"]["labels"] for r in runs(records)]
    return [labels] if isinstance(labels, int) else sorted(set(labels))


def order(methods: Iterable[str]) -> list[str]:
    """Methods as every table lists them, each once: as the registry does, the variants of one before it."""

    def place(method: str) -> tuple[int, int]:
        name, _, variant = method.partition("/")
        variants = [*getattr(METHODS.get(name), "VARIANTS", ()), ""]
        return [*METHODS, name].index(name), [*variants, variant].index(variant)

    return sorted(dict.fromkeys(methods), key=place)


def rows(grid: Iterable[Run], runs: pd.DataFrame) -> pd.MultiIndex:
    """(labels, method) of the runs that are asked for and of those that are there: every row of a table, run or not."""
    asked = {(config.labels, config.method) for config in grid} | set(zip(runs.labels, runs.method))
    budgets = sorted({labels for labels, _ in asked}, key=lambda labels: labels or math.inf)  # all labels are last
    found = [(n, m) for n in budgets for m in order(method for labels, method in asked if labels == n)]
    return pd.MultiIndex.from_tuples(found, names=["labels", "method"])


# Tidy tables that `records.table` does not hold


def history(records: Iterable[Mapping]) -> pd.DataFrame:
    """Every evaluation of the finished runs, a row each, shares in percent.

    labels method seed step accuracy; of the unlabelled faces kept and level_...: in the loss, and each level right.
    """
    rows = []
    for r in ran(records):
        of = {key: r["config"][key] for key in ("labels", "method", "seed")}
        for entry in r["history"]:
            levels = {f"level_{level}": share for level, share in entry.get("level_accuracy", {}).items()}
            shares = {"accuracy": entry["classifier"]["accuracy"], "kept": entry.get("kept"), **levels}
            row = {"step": entry["step"]} | {k: math.nan if v is None else 100 * v for k, v in shares.items()}
            rows.append(of | row)
    columns = ["labels", "method", "seed", "step", "accuracy", "kept", *(f"level_{level}" for level in LEVELS)]
    return pd.DataFrame(rows, columns=columns)


def recall(records: Iterable[Mapping]) -> pd.DataFrame:
    """Recall of each class (%) at the last evaluation; a row for each finished run: labels, method, seed."""
    rows = {}
    for r in ran(records):
        shares = r["metrics"]["classifier"]["last"]["recall"]
        key = tuple(r["config"][name] for name in ("labels", "method", "seed"))
        rows[key] = {name: 100 * share for name, share in zip(r["data"]["classes"], shares)}
    index = pd.MultiIndex.from_tuples(rows, names=["labels", "method", "seed"])
    return pd.DataFrame(rows.values(), index, columns=None if rows else EXPRESSIONS)


# Tables


def table2(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> pd.DataFrame:
    """Table II: one line for each row and budget, the published columns beside ours.

    ours: classifier, mean of the last five evaluations. gain: over the row above, paired over seeds. fused head: the
    same run read through the fused levels. best on test: chosen on the test split, which is the papers' way; no other
    column does so. seeds: ours, run by run. n counts finished runs; a row without any has NaN, and `text` prints
    "not run" or "failed".
    """
    lines = []
    for budget in budgets(records, labels):
        for above, row in zip((None, *ROWS), ROWS):
            done = ran(records, row.method, budget)
            line = {"labels": budget, "row": row.name, **{term: "x" if term in row.terms else "" for term in TERMS}}
            for column, name in COLUMNS.items():
                cell = published.published(row.table, row.method, column)
                line |= {name: cell.value, f"{name} ±": cell.spread}
            line |= with_spread("ours", [published.measure(r) for r in done])
            line["seeds"] = " ".join(f"{published.measure(r):.2f}" for r in done)
            gains = _gains(records, above.method, row.method, budget) if above else []
            line |= with_spread("gain", gains, over=math.sqrt(max(len(gains), 1)))
            line |= with_spread("last", [published.measure(r, which="last") for r in done])
            fused = [published.measure(r, head="fused") for r in done if r["metrics"]["fused"]]
            line |= with_spread("fused head", fused)
            line |= with_spread("macro F1", [published.measure(r, "macro_f1") for r in done])
            line |= with_spread("best on test", [published.measure(r, which="best_on_test") for r in done])
            lines.append(line | {"n": len(done), "failed": len(runs(records, row.method, budget)) - len(done)})
    return pd.DataFrame(lines, columns=list(dict.fromkeys([*MAIN[:-2], *DETAIL, *MAIN[-2:]])))


def levels_table(
    records: Sequence[Mapping], labels: Sequence[int] | int | None = None, rows: Sequence[Row] = ROWS
) -> pd.DataFrame:
    """Share of unlabelled faces kept, and how often pseudo-labels are right (%): target, target among the kept, levels.

    Means over the last five evaluations and over seeds. Hidden labels are used for this and for nothing else.
    """
    lines = []
    for budget in budgets(records, labels):
        for row in rows:
            tail = [h for r in ran(records, row.method, budget) for h in r["history"][-5:] if h.get("kept") is not None]
            if tail:
                line = {"labels": budget, "row": row.name, "kept": _mean(h["kept"] for h in tail)}
                line["right"] = _mean(h["pseudo_accuracy"] for h in tail)
                line["right, kept"] = _mean(h["pseudo_accuracy_kept"] for h in tail)
                line |= {level: _mean(h["level_accuracy"].get(level) for h in tail) for level in LEVELS}
                lines.append(line)
    return pd.DataFrame(lines, columns=["labels", "row", "kept", "right", "right, kept", *LEVELS])


def recall_table(
    records: Sequence[Mapping], labels: Sequence[int] | int | None = None, rows: Sequence[Row] = ROWS
) -> pd.DataFrame:
    """Recall of each class (%), last evaluation, mean over seeds: one line for each row and budget that ran."""
    lines = []
    for budget in budgets(records, labels):
        for row in rows:
            if done := ran(records, row.method, budget):
                recall = 100 * np.mean([r["metrics"]["classifier"]["last"]["recall"] for r in done], axis=0)
                lines.append({"labels": budget, "row": row.name} | dict(zip(done[0]["data"]["classes"], recall)))
    return pd.DataFrame(lines)


def claims_table(claims: Iterable[Claim], records: Sequence[Mapping]) -> pd.DataFrame:
    """Statements: published gain, ours, state; one printed line for each step and each budget it was tested on."""
    lines = []
    for claim in claims:
        found = published.compare(claim, records)
        several = len({(c.above, c.below) for c in found}) > 1
        ours = [f"{_step_name(c, found)} {_points(c)}" if several else _points(c) for c in found]
        line = {"claim": claim.says, "where": claim.table, "published": _range(claim.gains), "ours": "\n".join(ours)}
        line["tested on"] = "\n".join(_ground(c) for c in found)
        lines.append(line | {"state": "\n".join(c.state for c in found) or published.NOT_RUN})
    return pd.DataFrame(lines, columns=["claim", "where", "published", "ours", "tested on", "state"])


def gains_table(claims: Iterable[Claim], records: Sequence[Mapping]) -> pd.DataFrame:
    """The numbers of `figures.gains`: least and most published gain, ours, and what the rule needs, in points."""
    lines = []
    for claim in claims:
        points = [p for _, p in claim.gains] or [math.nan]
        found = published.compare(claim, records)
        for c in found if len({(c.above, c.below) for c in found}) == 1 else []:
            line = {"claim": claim.id.split("/")[1], "step": row_name(c.above), "tested on": _ground(c)}
            line |= {"published, least": min(points), "most": max(points), "gain": c.gain}
            lines.append(line | {"needed": math.nan if c.needed is None else c.needed, "n": c.n, "state": c.state})
    columns = ["claim", "step", "tested on", "published, least", "most", "gain", "needed", "n", "state"]
    return pd.DataFrame(lines, columns=columns)


def states_table(claims: Iterable[Claim], records: Sequence[Mapping]) -> pd.DataFrame:
    """How many published values and statements of each paper are in each state."""
    lines: dict[tuple[str, str], Counter] = {}
    for claim in claims:
        kind = "values" if claim.kind == "value" else "statements"
        lines.setdefault((claim.paper, kind), Counter())[published.state(claim, records)] += 1
    rows = [{"paper": p, "what": w, **{s: n[s] for s in published.STATES}} for (p, w), n in sorted(lines.items())]
    return pd.DataFrame(rows, columns=["paper", "what", *published.STATES])


def published_table(table: str) -> pd.DataFrame:
    """A published table as printed, e.g. published_table("sit-fer/I"): rows by columns, "value±spread"."""
    return published.cells(table).set_index(["name", "on"]).printed.unstack(sort=False).fillna("")


def papers_table() -> pd.DataFrame:
    """Which papers the claims are from, and what was read of each."""
    return pd.DataFrame([{"paper": key, **about} for key, about in published.papers().items()])


def step_table(levels: Mapping[str, torch.Tensor], truth: torch.Tensor, classes: Sequence[str]) -> pd.DataFrame:
    """Face by face: the true class, what each level [m, k] says and how surely (%), its entropy H in nats.

    The divergence of the levels is what fusing adds: H of the mean is the mean of the H, plus the divergence.
    """
    lines = []
    for i, label in enumerate(truth.tolist()):
        line = {"face": i, "true": classes[label]}
        for level, p in levels.items():
            top, index = p[i].max(0)
            line[level] = f"{classes[index]} {100 * float(top):.0f}"
        line |= {f"H {level}": float(entropy(p)[i]) for level, p in levels.items()}
        lines.append(line | {"divergence": float(divergence(levels)[i])})
    return pd.DataFrame(lines)


def decision_table(
    target: torch.Tensor, keep: torch.Tensor, truth: torch.Tensor, classes: Sequence[str]
) -> pd.DataFrame:
    """What becomes of each face: its pseudo-label [m, k], whether it enters the loss [m], whether it is right."""
    top, index = target.max(1)
    rows = zip(truth.tolist(), index.tolist(), top.tolist(), keep.tolist())
    return pd.DataFrame(
        [
            {"face": i, "true": classes[t], "pseudo-label": classes[c], "%": 100 * p, "kept": "yes" if k else "no"}
            | {"right": "yes" if t == c else "no"}
            for i, (t, c, p, k) in enumerate(rows)
        ]
    )


def shapes(**tensors: torch.Tensor) -> pd.DataFrame:
    """Name, shape, type and range of tensors."""
    lines = []
    for name, tensor in tensors.items():
        size = " x ".join(map(str, tensor.shape)) or "one number"
        line = {"tensor": name, "shape": size, "type": str(tensor.dtype).removeprefix("torch.")}
        lines.append(line | {"least": float(tensor.min()), "most": float(tensor.max())})
    return pd.DataFrame(lines)


# Sentences


def setting(records: Sequence[Mapping]) -> pd.DataFrame:
    """What the runs have in common, a line for each thing: data and test split, start, network, steps, text, device."""
    done, lines = ran(records), []
    for data in unique(r["data"] for r in done):
        shown = next(r["metrics"]["classifier"]["last"]["confusion"] for r in done if r["data"] == data)
        counts, dropped = np.sum(shown, axis=1), data["duplicates_dropped"]
        doubles = f", {dropped:,} more dropped as duplicates of test faces" if dropped else ""
        share = f"{data['classes'][counts.argmax()]} is {100 * counts.max() / counts.sum():.1f} % of them"
        faces = f"{data_name(data['name'])} ({data['fingerprint']}): {data['train']:,} training faces{doubles}"
        lines += [("data", faces), ("test", f"{data['tested_on']}, {data['test']:,} faces; {share}")]
    parts = [line.split("\n        ") for line in _starts(done, records)]
    lines += [("" if k else "start", part) for some in parts for k, part in enumerate(some)]
    steps = "{encoder}, {image_size} px, {steps:,} steps of {batch} labelled and {unlabelled_batch} unlabelled faces"
    lines += [("runs", line) for line in unique(steps.format(**r["config"]) for r in done)]
    lines += [("text", line) for line in unique('{text}, prompt "{prompt}"'.format(**r["config"]) for r in done)]
    lines += [("device", ", ".join(unique(r["provenance"]["device"] for r in done)))] if done else []
    return pd.DataFrame(lines or [("runs", published.NOT_RUN)], columns=["what", "in all runs"])


def seeds(runs: pd.DataFrame, rows: str = "name") -> pd.DataFrame:
    """Which seeds have a finished run, by these rows and by budget; a failed run is named with its error."""
    shown = runs[runs.repeat == 0].sort_values("seed", kind="stable")
    said = shown.seed.astype(str).where(shown.status == "finished", "failed: " + shown.error)
    listed = runs.set_index("method").loc[order(runs.method), rows].unique()
    shown = shown.assign(said=said).drop_duplicates([rows, "labels", "said"])  # of a row's points
    table = shown.pivot_table("said", rows, "labels", " ".join, "").reindex(listed)
    return table[sorted(table, key=lambda labels: labels or math.inf)].rename(columns=budget_name)


def head(records: Sequence[Mapping]) -> str:
    """What the runs have in common: data and test split, start and what it is worth, network, steps, device."""
    done = ran(records)
    if not done:
        return "no finished run: every row below says so"
    lines = []
    for data in unique(r["data"] for r in done):
        shown = next(r["metrics"]["classifier"]["last"]["confusion"] for r in done if r["data"] == data)
        counts, dropped = np.sum(shown, axis=1), data["duplicates_dropped"]
        doubles = f", {dropped:,} more dropped as duplicates of test faces" if dropped else ""
        share = f"{data['classes'][counts.argmax()]}, is {100 * counts.max() / counts.sum():.1f} % of them"
        lines.append(
            f"data    {data_name(data['name'])} ({data['fingerprint']}): {data['train']:,} training faces{doubles}"
        )
        lines.append(f"        tested on {data['tested_on']}, {data['test']:,} faces; the largest class, {share}")
    lines += [f"start   {line}" for line in _starts(done, records)]
    steps = "{encoder}, {image_size} px, {steps:,} steps of {batch} labelled and {unlabelled_batch} unlabelled faces"
    lines += [f"runs    {line}" for line in unique(steps.format(**r["config"]) for r in done)]
    prompts = unique('{text}, prompt "{prompt}"'.format(**r["config"]) for r in done)
    lines += [f"text    {line}" for line in prompts]
    lines.append(f"device  {', '.join(unique(r['provenance']['device'] for r in done))}")
    return "\n".join(lines)


def coverage(records: Sequence[Mapping]) -> str:
    """One line for each budget: how many runs there are and with which seeds; then every failed run with its reason."""
    lines = []
    for budget in budgets(records):
        done = ran(records, labels=budget)
        seeds = ", ".join(map(str, sorted({r["config"]["seed"] for r in done}))) or "none"
        lines.append(f"{budget_name(budget)}: {len(done)} finished runs, seeds {seeds}")
    for r in runs(records):
        if r["status"] == "failed":
            where = "{method}, {budget}, seed {seed}".format(**r["config"], budget=budget_name(r["config"]["labels"]))
            lines.append(f"failed: {where}: {r.get('error', 'no reason given')}")
    return "\n".join(lines) or "no runs"


def answer(records: Sequence[Mapping]) -> str:
    """Table II's answer: SIT-FER over its semantic level, the labels alone and FixMatch; what its components add."""
    done = ran(records)
    if not done:
        return "Not run: there is no finished run yet."
    rivals = {"sitfer/semantic": "its semantic level alone", "supervised": "the labels alone", "fixmatch": "FixMatch"}
    parts = {"p_text": "sit-fer/text", "p_ins": "sit-fer/instance", "L_t": "sit-fer/text-loss"}
    sentences = [f"Table II's order is {SAID[published.state(published.find('sit-fer/components'), done)]}."]
    for budget in budgets(done):
        here = ran(records, labels=budget)
        gains = {said: _gains(here, method, "sitfer", budget) for method, said in rivals.items()}
        over = [f"{statistics.fmean(gain):+.2f} points against {said}" for said, gain in gains.items() if gain]
        states = [f"{term} {SAID[published.state(published.find(id), here)]}" for term, id in parts.items()]
        where = f"{budget:,} labels of {', '.join(unique(data_name(r['config']['dataset']) for r in here))}"
        n = len(ran(here, "sitfer"))
        said = f"SIT-FER ends at {series(over)}" if over else "SIT-FER has no run to compare"
        sentences.append(f"With {where} (n = {n}), {said}; its components: {', '.join(states)}.")
        if idle := idle_rows(here, budget):
            sentences.append(f"But no pseudo-label passed the threshold in: {', '.join(idle)}.")
    return " ".join(sentences)


def overview(claims: Sequence[Claim], records: Sequence[Mapping]) -> str:
    """How many statements and values are in which state, in one sentence."""
    parts = []
    for kind, name in (("direction", "statements"), ("value", "published values")):
        counts = Counter(published.state(c, records) for c in claims if c.kind == kind)
        said = [f"{counts[state]} {SAID[state]}" for state in published.STATES if counts[state]]
        parts.append(f"{sum(counts.values())} {name}: {', '.join(said)}")
    grounds = dict.fromkeys(f"{data_name(r['config']['dataset'])}/{r['config']['labels']}" for r in ran(records))
    return f"{parts[0]}; {parts[1]} (tested on {', '.join(grounds) or 'nothing yet'})."


def smoothing(levels: Mapping[str, torch.Tensor]) -> str:
    """What fusing did to the half of the faces on which the levels agree most, and to the other half."""
    order, m = divergence(levels).argsort(), len(levels["fused"])
    parts = []
    for name, rows in (("agree most", order[: m // 2]), ("differ most", order[m // 2 :])):
        alone = statistics.fmean(entropy(p[rows]).mean().item() for level, p in levels.items() if level != "fused")
        together, top = entropy(levels["fused"][rows]).mean().item(), 100 * levels["fused"][rows].max(1).values.mean()
        parts.append(
            f"Where the levels {name} ({len(rows)} faces), fusing takes the entropy from {alone:.2f} to {together:.2f} "
            f"nats, and the fused label's largest probability is {top:.0f} %."
        )
    return "\n".join(parts)


def verdict(claim: Claim | str, records: Sequence[Mapping]) -> str:
    """The state of a claim, our margin against its spread, the published number."""
    claim = published.find(claim) if isinstance(claim, str) else claim
    found = published.compare(claim, records)
    printed = f"{claim.value:.2f} {claim.units}" if claim.value is not None else _printed_gains(claim.gains)
    source = f"; published: {printed}." if printed else "."
    state = SAID[published.combine([c.state for c in found])]
    if not found:
        return f"{state}: {claim.says}{source}"
    parts = []
    for ground, here in _grounds(found):
        margins = [f"{_step_name(c, here)} {margin(c)}" if len(here) > 1 else margin(c) for c in here]
        parts.append(f"on {ground} {'; '.join(margins)}")
    said = "; ".join(parts)
    return f"{state}: {claim.says}. {said[0].upper()}{said[1:]}{source}"


def untested(records: Sequence[Mapping], table: str = "sit-fer/II", rows: Sequence[Row] = ROWS) -> str:
    """What could not be tested, computed: the table's own data sets and budgets, rows without a run, single seeds."""
    cells = [c for c in published.load() if c.kind == "value" and c.id.startswith(f"{table} ")]
    missing = [c for c in cells if not published.compare(c, records)]
    columns, name = ", ".join(dict.fromkeys(heading(c.column, "/") for c in missing)), cells[0].table
    lines = [f"{len(missing)} of {name}'s {len(cells)} cells have no run on their own data and budget ({columns})."]
    lines = lines if missing else [f"Every cell of {name} was run on its own data and budget."]
    single = []
    for budget in filter(None, budgets(records)):
        counts = {row.name: len(ran(records, row.method, budget)) for row in rows}
        single += [f"{budget:,}"] if 1 in counts.values() else []
        if absent := "; ".join(name for name, n in counts.items() if not n):
            lines.append(f"No finished run with {budget:,} labels: {absent}.")
    for budget in filter(None, budgets(records)):
        for name, levels in idle_rows(records, budget, rows).items():
            said = ", ".join(f"{level} right in {share:.1f} %" for level, share in levels.items())
            lines.append(
                f"{name} at {budget:,} labels kept less than {IDLE} % of the unlabelled faces: it trained on "
                f"the labels alone, and its row says nothing of pseudo-labels ({said})."
            )
    if single:
        lines.append(f"One seed alone ({', '.join(single)} labels): no spread, so no verdict above {SAID['partly']}.")
    return "\n".join(lines)


def provenance_text(records: Sequence[Mapping]) -> str:
    """Where the records come from: code, versions, devices, hours, dates. Identical for identical records."""
    made = [r for r in records if r["status"] == "finished" and r["kind"] in ("run", "pretrain")]
    if not made:
        return "no records"
    kinds = Counter(r["kind"] for r in made)
    notes = [r["provenance"] for r in made if r.get("provenance")]
    hours = sum(p["seconds"] for p in notes) / 3600
    versions = [", ".join(f"{k} {v}" for k, v in sorted(p["versions"].items())) for p in notes]
    commits = [f"{(p['commit'] or 'none')[:10]}{', with uncommitted changes' if p['dirty'] else ''}" for p in notes]
    lines = [f"records   runs: {kinds['run']}, pre-trainings: {kinds['pretrain']}, hours of training: {hours:.1f}"]
    lines += [f"commit    {line}" for line in _tally(commits)]
    lines += [f"source    {line}" for line in _tally(p["source"] for p in notes)]
    lines += [f"versions  {line}" for line in _tally(versions)]
    lines += [f"device    {line}" for line in _tally(f"{p['device']}, {p['precision']}" for p in notes)]
    dates = sorted({p["finished"][:10] for p in notes})
    return "\n".join([*lines, f"finished  {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}"] if dates else lines)


def provenance(records: Sequence[Mapping]) -> pd.DataFrame:
    """Where the records come from: a line for each commit and machine, with its runs, hours and dates."""
    made = [r for r in records if r["status"] == "finished" and r["kind"] in ("run", "pretrain")]
    lines: dict[tuple, list[Mapping]] = {}
    for p in (r["provenance"] for r in made):
        commit = f"{(p['commit'] or 'none')[:10]}{' (changed)' if p['dirty'] else ''}"
        versions = f"torch {p['versions']['torch']}, python {p['versions']['python']}"
        lines.setdefault((commit, p["source"], versions, f"{p['device']}, {p['precision']}"), []).append(p)
    rows = []
    for key, some in lines.items():
        dates = sorted(p["finished"][:10] for p in some)
        days = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
        rows.append((*key, len(some), sum(p["seconds"] for p in some) / 3600, days))
    return pd.DataFrame(rows, columns=["commit", "source", "versions", "machine", "made", "hours", "finished"])


def environment() -> str:
    """What this session runs on: for the stamp at the head of a notebook, not for a record."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    versions = f"python {sys.version.split()[0]}, torch {torch.__version__}, pandas {pd.__version__}"
    return f"{versions}, {device}, source {store.source_hash()}"


# Parts


def idle_rows(records: Sequence[Mapping], labels: int, rows: Sequence[Row] = ROWS) -> dict[str, dict[str, float]]:
    """Rows whose pseudo-labels hardly ever entered the loss, and how often each of their levels was right (%)."""
    table = levels_table(records, labels, rows)
    idle = table[table["kept"] < IDLE] if len(table) else table
    return {line["row"]: line[list(LEVELS)].dropna().to_dict() for _, line in idle.iterrows()}


def _gains(records: Sequence[Mapping], below: str, above: str, labels: int) -> list[float]:
    done = ran(records, labels=labels)
    return list(published.differences(done, {"method": below}, {"method": above}).values())


def with_spread(name: str, values: Sequence[float], over: float = 1) -> dict[str, float]:
    mean = statistics.fmean(values) if values else math.nan
    return {name: mean, f"{name} ±": statistics.stdev(values) / over if len(values) > 1 else math.nan}


def _mean(values: Iterable[float | None]) -> float:
    known = [100 * v for v in values if v is not None]
    return statistics.fmean(known) if known else math.nan


def unique(values: Iterable) -> list:
    return list({files.canonical(v): v for v in values}.values())


def _tally(values: Iterable[str]) -> list[str]:
    counts = Counter(values)
    return [value if len(counts) == 1 else f"{value} ({n})" for value, n in counts.items()]


def _grounds(found: Iterable[Comparison]) -> list[tuple[str, list[Comparison]]]:
    """Comparisons by data set and budget: ("FER2013/400", [...]), ..."""
    out: dict[str, list[Comparison]] = {}
    for c in found:
        out.setdefault(_ground(c), []).append(c)
    return list(out.items())


def _ground(c: Comparison) -> str:
    return f"{data_name(c.dataset)}/{c.labels}"


def data_name(dataset: str) -> str:
    return DATASETS.get(dataset, dataset)


def budget_name(labels: int) -> str:
    return f"{labels:,} labels" if labels else "all labels"


def run_key(record: Mapping) -> str:
    """A run's own key; for a transfer, that of the run it tests."""
    return files.key_of(record["config"]["run"]) if record["kind"] == "transfer" else record["key"]


def row_name(row: str) -> str:
    """What a row is called: a method by its title, anything else ("tau 0.6", a prompt) as it is."""
    return title(row) if row.partition("/")[0] in METHODS else row


def _step_name(c: Comparison, found: Sequence[Comparison]) -> str:
    """The upper row; beside it the lower one, where that is not simply the step before."""
    chain = all(a.above == b.below for a, b in pairwise(found) if _ground(a) == _ground(b))
    return row_name(c.above) if chain else f"{row_name(c.above)} over {row_name(c.below)}"


def heading(column: str, between: str = "\n") -> str:
    dataset, _, labels = column.partition("/")
    name = f">{between.strip('/')}".join(map(data_name, dataset.split(">")))
    return f"{name}{between}{labels}" if labels else name


def _printed_gains(gains: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{points:+.2f} on {heading(column, '/')}" for column, points in gains)


def _range(gains: Sequence[tuple[str, float]]) -> str:
    """Published gains, short: all of up to two columns, else from least to most."""
    if len(gains) <= 2:
        return "\n".join(f"{points:+.2f} {heading(column, '/')}" for column, points in gains)
    points = [p for _, p in gains]
    return f"{min(points):+.2f} to {max(points):+.2f}\n({len(gains)} columns)"


def _points(c: Comparison) -> str:
    if c.state == published.NOT_RUN:
        return published.NOT_RUN
    return f"{c.gain:+.2f}{'' if c.error is None else f' ± {c.error:.2f}'}, n = {c.n}"


def margin(c: Comparison) -> str:
    """A comparison's gain with what the rule needs."""
    if c.state == published.NOT_RUN:
        return published.NOT_RUN
    spread = "one pair, no spread" if c.needed is None else f"standard error {c.error:.2f}, {c.needed:.2f} needed"
    return f"{c.gain:+.2f} points ({spread}, n = {c.n})"


def series(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _starts(done: Sequence[Mapping], records: Iterable[Mapping]) -> list[str]:
    """A line for each start of these runs; where there are several, with the number of runs."""
    worth = {r["key"]: r for r in records if r["kind"] == "pretrain" and r["status"] == "finished"}
    starts = unique(r["start"] for r in done)
    counts = [sum(r["start"] == start for r in done) for start in starts]
    lines = [_start(start, worth.get(start.get("key"))) for start in starts]
    return [f"{line}; runs: {n}" for line, n in zip(lines, counts)] if len(starts) > 1 else lines


def _start(start: Mapping, pretrained: Mapping | None) -> str:
    """Which weights the runs began with, and what they are worth before any training with labels."""
    kinds = {"none": "random weights", "imagenet": "ImageNet weights (torchvision)", "file": "weights from a file"}
    said = kinds.get(start["kind"], "our own pre-training without labels (SimCLR)")
    said += f", sha256 {start['sha256'][:16]}" if start.get("sha256") else ""
    if pretrained is None:
        return said
    if pretrained["start"]["sha256"] != start["sha256"]:
        return f"{said}\n        the same pre-training made again elsewhere; pairs are of one start where they can be"
    probe, near = (100 * pretrained["metrics"][name] for name in ("linear_probe", "knn"))
    said += f", {pretrained['config']['steps']:,} steps"
    return f"{said}\n        worth, with all labels: linear probe {probe:.1f} %, nearest neighbours {near:.1f} %"
