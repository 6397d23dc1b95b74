"""Tables and sentences of features: what the maps show, in numbers taken at full width. Figures: features_figures.py.

Every function takes extracts as `features.complete` gives them. A ± is the standard deviation over seeds.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fercore.analysis import claims as published
from fercore.analysis import tables
from fercore.analysis.claims import Comparison
from fercore.analysis.tables import Row
from fercore.study import plan, profiles, transfer
from fercore.study.features import Extract

SITFER, WITHOUT = "sitfer", "sitfer/instance"  # the second: all of the first but L_t
ROWS = (
    Row("supervised", "labels only", (), ""),
    Row("fixmatch", "FixMatch", (), ""),
    Row("simmatch", "SimMatch", (), ""),  # the nearest relative: it remembers instances, too
    Row(WITHOUT, "SIT-FER without L_t", (), ""),
    Row(SITFER, "SIT-FER", (), ""),
    Row("fullysupervised", "all labels", (), ""),
)
NAMES = {row.method: row.name for row in ROWS}
NUMBERS = ("accuracy", "purity", "silhouette", "separation", "alignment", "uniformity")
MEMORY = ("slots", "given", "guessed", "right", "purity", "cosine", "between")
SHARES = ("accuracy", "purity")  # printed as percentages
CLUSTERS = 0.25  # mean silhouette up to which there is "no substantial structure" (Kaufman and Rousseeuw 1990)
BEST_FIRST = {"purity": 1, "silhouette": 1, "separation": 1, "alignment": -1, "uniformity": -1}


def of(extracts: Iterable[Extract], method: str, space: str = "embedding") -> list[Extract]:
    """Those of one method that have this space, by seed."""
    found = [e for e in extracts if e.config.method == method and space in e.numbers]
    return sorted(found, key=lambda e: e.config.seed)


# Tables


def numbers_table(
    extracts: Sequence[Extract], records: Sequence[Mapping] = (), space: str = "embedding"
) -> pd.DataFrame:
    """One line for each row: its seeds, and the numbers of geometry.py; accuracy and purity in percent.

    In the space `text` only rows that have it, and the accuracy is that of the nearest prompt.
    """
    lines = []
    for method, name in NAMES.items():
        found = of(extracts, method, space)
        if space == "text" and not found:
            continue
        made = "no features" if tables.ran(records, method) else "not run"
        line = {"row": name, "seeds": " ".join(str(e.config.seed) for e in found) or made}
        for number in NUMBERS:
            values = [(100 if number in SHARES else 1) * e.numbers[space][number] for e in found]
            line |= tables.with_spread(number, values)
        lines.append(line)
    return pd.DataFrame(lines, columns=["row", "seeds", *(n + s for n in NUMBERS for s in ("", " ±"))])


def anchors_table(extracts: Sequence[Extract]) -> pd.DataFrame:
    """Class by class, in the text space: cosine of the class mean to its own prompt and to the others (their mean), the
    margin between the two, and the nearest prompt. Means over seeds.
    """
    lines = []
    for method, name in NAMES.items():
        if found := of(extracts, method, "text"):
            classes = found[0].classes
            for i, row in enumerate(_cosines(found)):
                if not np.isnan(row).all():
                    own, others = row[i], np.delete(row, i).mean()
                    line = {"row": name, "class": classes[i], "own": own, "others": others, "margin": own - others}
                    lines.append(line | {"nearest": classes[row.argmax()]})
    return pd.DataFrame(lines, columns=["row", "class", "own", "others", "margin", "nearest"])


def memory_table(extracts: Sequence[Extract]) -> pd.DataFrame:
    """What the memory holds at the end, seed by seed: slots, labels given and guessed, guesses that are right (%, by
    the hidden labels). Of the slots drawn: purity (%) and cosine of their nearest faces, and the cosine between faces.
    """
    lines = []
    for method, name in NAMES.items():
        for e in of(extracts, method):
            if held := e.about["memory"]:
                line = {"row": name, "seed": e.config.seed} | {key: held.get(key) for key in MEMORY}
                for share in ("right", "purity"):
                    line[share] = math.nan if line[share] is None else 100 * line[share]
                lines.append(line | {"drawn": len(e.tensors["slots"])})
    return pd.DataFrame(lines, columns=["row", "seed", *MEMORY[:4], "drawn", *MEMORY[4:]])


# Sentences


def head(extracts: Sequence[Extract]) -> str:
    """Which faces, what a purity by chance is, how the maps were made and what the reduction before them lost."""
    if not extracts:
        return "no features: no run's weights have been read"
    lines = []
    for e in _unique(extracts, lambda e: e.tensors["rows"].tolist()):
        data, counts = e.about["data"], e.tensors["labels"].bincount(minlength=len(e.classes)).tolist()
        said = ", ".join(f"{name} {n}" for name, n in zip(e.classes, counts))
        of_all = f"{sum(counts):,} of {data['test']:,} test faces of {tables.data_name(data['name'])}"
        lines.append(f"faces   {of_all} ({data['tested_on']}, {data['fingerprint']}), the same in every row")
        lines.append(f"        {said}; a purity by chance: {100 * e.about['chance']:.1f} %")
    spaces = [numbers for e in extracts for numbers in e.numbers.values()]
    kept, lost = (sorted(100 * numbers[key] for numbers in spaces) for key in ("kept", "distance_error"))
    width = max(e.tensors["embedding.faces"].shape[1] for e in extracts)
    for drawn in tables.unique(e.about["map"] for e in extracts):
        lines.append("maps    t-SNE, perplexity {perplexity:g}, seed {seed}, begun at the first two of".format(**drawn))
        lines.append(f"        at most {width} principal components, which keep {_span(kept, 0)} % of the variance;")
        lines.append(f"        distances are off by {_span(lost, 1)} % on average")
        lines.append(f"numbers from all components; purity among the {drawn['neighbours']} nearest faces")
    return "\n".join(lines)


def absent(study: profiles.Profile, extracts: Sequence[Extract]) -> str:
    """Which rows and seeds have no features yet, and the commands that make them."""
    have = {e.config.key for e in extracts}
    runs = [config for config in plan.features(study) if config.key not in have]
    if not runs:
        return "Every run of these rows has its features."
    seeds: dict[str, list[str]] = {}
    for config in runs:
        seeds.setdefault(NAMES[config.method], []).append(str(config.seed))
    place = (Path("results") / f"{study.name}-weights").as_posix()
    root = "" if study.dataset == "facs" else " --data-root DIR"
    said = "; ".join(f"{name}, seed {', '.join(numbers)}" for name, numbers in seeds.items())
    return (
        f"No features yet: {said}. Features need weights, and records keep none. To make these runs again with their "
        f"weights, and to read those (then copy {place}/features):\n"
        f"  {transfer.command(study.name, runs, place)}{root}\n"
        f"  python -m fercore features {study.name} --results {place}{root}"
    )


def answer(extracts: Sequence[Extract]) -> str:
    """Are classes further apart with SIT-FER, and do class means come to their prompts? In three sentences."""
    found = of(extracts, SITFER)
    rows = {method: of(extracts, method) for method in NAMES}
    heights = [f"{NAMES[m]} {_mean(e, 'silhouette'):+.3f}" for m, e in rows.items() if e]
    if not heights:
        return "No answer: no run's features have been read yet."
    best = max(_mean(e, "silhouette") for e in rows.values() if e)
    said = f"{'In no row' if best <= CLUSTERS else 'Not in every row, but in some'} are the classes clusters: the mean "
    said += "silhouette is "
    said += f"{', '.join(heights)} (1: apart, 0: mixed; up to {CLUSTERS} there is no substantial structure)."
    if not found:
        return f"{said} SIT-FER: no features yet, so the question is open."
    rivals = [compared(extracts, method) for method in ("supervised", "fixmatch")]
    said += "".join(f" SIT-FER against {NAMES[c.below]}: {_judged(c)}." for c in rivals if c.n)
    return f"{said} {pulled(extracts)}" if of(extracts, SITFER, "text") else said


def compared(
    extracts: Sequence[Extract], below: str, above: str = SITFER, number: str = "silhouette", space: str = "embedding"
) -> Comparison:
    """`above` minus `below` in this number, paired over the seeds that both have; by the rule of claims.py."""
    pair = [{e.config.seed: e for e in of(extracts, method, space)} for method in (above, below)]
    seeds = sorted(pair[0].keys() & pair[1].keys())
    values = [pair[0][s].numbers[space][number] - pair[1][s].numbers[space][number] for s in seeds]
    first = next((e for e in pair[0].values()), None)
    dataset, labels = (first.config.dataset, first.config.labels) if first else ("", 0)
    return published.judge(above, below, dataset, labels, values)


def apart(extracts: Sequence[Extract]) -> str:
    """SIT-FER's classes against every other row's: silhouette and purity, paired over seeds; with one seed also over
    faces, which tells how far the sample of faces can be trusted and nothing of another training.
    """
    lines = []
    for method in NAMES:
        for number in ("silhouette", "purity") if method != SITFER else ():
            c = compared(extracts, method, number=number)
            if c.n:
                said = f"{_judged(c)}{_over_faces(extracts, c, number)}"
                lines.append(f"SIT-FER against {NAMES[method]}, {number}: {said}.")
    return "\n".join(lines) or "SIT-FER against the others: no features yet."


def pulled(extracts: Sequence[Extract]) -> str:
    """Whether class means lie at their own prompts: with L_t, and where it was run without."""
    parts = []
    for method in (SITFER, WITHOUT):
        found = of(extracts, method, "text")
        if not found:
            parts.append(f"{NAMES[method]}: no features yet.")
            continue
        cosines = _cosines(found)
        seen = [i for i in range(len(cosines)) if not np.isnan(cosines[i]).all()]
        own = statistics.fmean(float(cosines[i, i]) for i in seen)
        others = statistics.fmean(float(np.delete(cosines[i], i).mean()) for i in seen)
        right = sum(int(cosines[i].argmax()) == i for i in seen)
        parts.append(
            f"{NAMES[method]}: class means are at cosine {own:.3f} to their own prompt and {others:.3f} to the others; "
            f"{right} of {len(seen)} are nearest to their own (n = {len(found)})."
        )
    if "no features" in parts[0]:
        return parts[0]
    c = compared(extracts, WITHOUT, number="margin", space="text")
    if not c.n:
        return f"{parts[0]} Without L_t: no features yet, so how much of this is that loss's doing is not shown."
    return f"{' '.join(parts)} The margin that L_t adds: {_judged(c)}."


def orders(extracts: Sequence[Extract]) -> str:
    """The rows, best first, by each number: where the orders differ, "better separated" depends on who is asked."""
    rows = {name: of(extracts, method) for method, name in NAMES.items()}
    rows = {name: found for name, found in rows.items() if found}
    lines = []
    for number, sign in BEST_FIRST.items():
        ranked = sorted(rows, key=lambda name: -sign * _mean(rows[name], number))
        lines.append(f"{number:<10}  {' > '.join(ranked)}")
    return "\n".join(lines) if len(rows) > 1 else "Fewer than two rows have features: nothing to order."


def single(extracts: Sequence[Extract]) -> str:
    """Rows with one seed, in words."""
    names = [name for method, name in NAMES.items() if len(of(extracts, method)) == 1]
    return f"One seed alone: {', '.join(names)}. No spread, so no difference above is called real." if names else ""


def provenance(extracts: Sequence[Extract]) -> str:
    """What read the weights: source, versions, devices, seconds."""
    made = [e.about["provenance"] for e in extracts]
    lines = [f"features  {len(made)} extracts, {sum(p['seconds'] for p in made):.0f} s of reading and mapping"]
    for name, key in (("source", "source"), ("device", "device")):
        lines += [f"{name:<8}  {value}" for value in dict.fromkeys(p[key] for p in made)]
    return "\n".join(lines) if made else "features  none"


# Parts


def _cosines(found: Sequence[Extract]) -> np.ndarray:
    """Class means to prompts [k, k], mean over seeds; NaN for a class without a face."""
    k = len(found[0].classes)
    rows = [[[math.nan] * k if row is None else row for row in e.numbers["text"]["anchors"]] for e in found]
    return np.mean(rows, axis=0)


def _mean(found: Sequence[Extract], number: str) -> float:
    return statistics.fmean(e.numbers["embedding"][number] for e in found)


def _judged(c: Comparison) -> str:
    """A difference, and whether it is more than the seeds' spread."""
    if c.needed is None:
        return f"{c.gain:+.3f} (one seed: no spread, so not known to be real)"
    sure = "real" if abs(c.gain) > c.needed else "not told from the seeds' spread"
    return f"{c.gain:+.3f} ({sure}: standard error {c.error:.3f}, {c.needed:.3f} needed, n = {c.n})"


def _over_faces(extracts: Sequence[Extract], c: Comparison, number: str) -> str:
    if c.n != 1:
        return ""
    seeds = [{e.config.seed: e for e in of(extracts, method)} for method in (c.above, c.below)]
    (seed,) = seeds[0].keys() & seeds[1].keys()
    above, below = (found[seed].tensors[f"embedding.{number}"].double() for found in seeds)
    return f"; over faces ± {float((above - below).std() / math.sqrt(len(above))):.3f}"


def _unique(extracts: Iterable[Extract], key) -> list[Extract]:
    return list({str(key(e)): e for e in extracts}.values())


def _span(values: Sequence[float], digits: int) -> str:
    low, high = f"{values[0]:.{digits}f}", f"{values[-1]:.{digits}f}"
    return low if low == high else f"{low} to {high}"
