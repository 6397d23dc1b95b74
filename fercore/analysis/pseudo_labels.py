"""Pseudo-labels face by face: what the fusion of the levels rescues and spoils, what it does to entropy and confidence.

Everything is a function of dumps (dumps.py). A face is *rescued* where the semantic level names the wrong class and the
fusion the right one, *spoiled* where it is the other way round. Probabilities are those of the averaged model on the
plain view, before distribution alignment. A *ground* is a data set with a budget; its runs are pooled face by face.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from fercore import data
from fercore.analysis import claims, significance, tables
from fercore.config import Run
from fercore.fusion import divergence, entropy, fuse
from fercore.methods import resolve
from fercore.study import dumps, profiles, records, sweep
from fercore.study.dumps import Dump
from fercore.training import metrics

RESCUED, SPOILED = "rescued", "spoiled"
ALPHA = 0.05
BINS = 10  # of a reliability diagram
PARTS = 10  # equal parts of the faces, from the most agreeing levels to the most diverging ones


@dataclass(frozen=True)
class Shown:
    """A dump with the pictures of its faces, uint8 [n, h, w, c]."""

    dump: Dump
    images: UInt8[np.ndarray, "n h w c"]


# Which dumps


def gather(study: profiles.Profile, grid: Iterable[Run]) -> tuple[list[Dump], Shown | None]:
    """The dumps of these runs, and the faces to look at, whose dump is among them."""
    own = of(study, grid)
    faces = shown(study, own)
    return beside(own, faces), faces


def of(study: profiles.Profile, grid: Iterable[Run]) -> list[Dump]:
    """The dumps of these runs at the largest budget that has one. Where there is none, the first run's is made."""
    grid = sorted(grid, key=lambda config: -config.labels)
    found = [dump for config in grid if (dump := dumps.read(study.results, config))]
    if not found and grid and (made := dumps.complete(study, grid[0])):
        found = [made]
    return [dump for dump in found if dump.config.labels == found[0].config.labels]


def pictures(study: profiles.Profile, found: Sequence[Dump]) -> Shown | None:
    """The first of these dumps with its faces; None where the faces are not at hand, or are others by now."""
    if not found or not sweep.ready(study):
        return None
    config = found[0].config
    faces = data.load(config.dataset, study.data_root, size=config.image_size, **config.dataset_options)
    if faces.fingerprint != found[0].about["fingerprint"]:
        return None
    images = np.ascontiguousarray(faces.images[found[0].rows.numpy()])
    return Shown(found[0], images.transpose(0, 2, 3, 1))


def shown(study: profiles.Profile, found: Sequence[Dump]) -> Shown | None:
    """Faces to look at: the study's own where they are at hand, else those that fercore draws itself."""
    if own := pictures(study, found):
        return own
    drawn = profiles.load("embedded")
    made = dumps.complete(drawn, drawn.runs(["sitfer"])[0])
    return pictures(drawn, [made] if made else [])


def beside(found: Sequence[Dump], faces: Shown | None) -> list[Dump]:
    """The study's dumps, and after them that of the faces which are shown in their place."""
    return [*found, faces.dump] if faces and faces.dump.path not in {dump.path for dump in found} else list(found)


def grounds(found: Sequence[Dump]) -> dict[str, list[Dump]]:
    """Dumps by data set and budget, as a table names them."""
    out: dict[str, list[Dump]] = {}
    for dump in found:
        out.setdefault(f"{tables.data_name(dump.config.dataset)}/{dump.config.labels}", []).append(dump)
    return out


# Face by face


def look(dump: Dump, at: int = -1) -> dict[str, Float[Tensor, "n k"]]:
    """The levels and their fusion (8), with the method's weights where it has some."""
    levels = dump.levels(at)
    method, options = resolve(dump.config.method, dump.config.options)
    return levels | {"fused": fuse(levels, method.fusion(options) if hasattr(method, "fusion") else None)}


def pooled(runs: Sequence[Dump], at: int = -1) -> tuple[dict[str, Float[Tensor, "n k"]], Int64[Tensor, " n"]]:
    """Levels, fusion and hidden labels of all runs of a ground."""
    looks = [look(dump, at) for dump in runs]
    return {name: torch.cat([p[name] for p in looks]) for name in looks[0]}, torch.cat([d.labels for d in runs])


def outcome(levels: Mapping[str, Tensor], truth: Int64[Tensor, " n"]) -> dict[str, Bool[Tensor, " n"]]:
    """Which faces the fusion rescues, and which it spoils."""
    alone, together = (levels[name].argmax(1) == truth for name in ("semantic", "fused"))
    return {RESCUED: together & ~alone, SPOILED: alone & ~together}


def order(
    levels: Mapping[str, Tensor], rows: Int64[Tensor, " r"], by: str = "confidence", level: str = "fused"
) -> Int64[Tensor, " r"]:
    """These rows from most to least: the confidence of a level, or the disagreement of all levels."""
    value = levels[level].max(1).values if by == "confidence" else divergence(levels)
    return rows[value[rows].argsort(descending=True, stable=True)]


def pick(levels: Mapping[str, Tensor], truth: Int64[Tensor, " n"], kind: str, count: int = 8) -> Int64[Tensor, " r"]:
    """So many rescued or spoiled faces, the surest fusions first, class by class in turn."""
    rows = order(levels, outcome(levels, truth)[kind].nonzero()[:, 0])
    turn: dict[int, int] = {}
    ranked = []
    for row in rows.tolist():
        label = int(truth[row])
        ranked.append((turn.get(label, 0), len(ranked), row))
        turn[label] = turn.get(label, 0) + 1
    return torch.tensor([row for _, _, row in sorted(ranked)[:count]], dtype=torch.int64)


def examples(shown: Shown, count: int = 3) -> Int64[Tensor, " r"]:
    """So many rescued faces, and after them as many spoiled ones; last look."""
    levels, truth = look(shown.dump), shown.dump.labels
    return torch.cat([pick(levels, truth, kind, count) for kind in (RESCUED, SPOILED)])


def credit(levels: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Bool[Tensor, " n"]]:
    """Which of the levels beside the semantic one name the class that the fusion names: one alone, several, none."""
    others = [name for name in names if name != "semantic"]
    named = torch.stack([levels[name].argmax(1) == levels["fused"].argmax(1) for name in others])
    votes = named.sum(0)
    out = {f"{name} alone": agrees & (votes == 1) for name, agrees in zip(others, named)}
    return out | ({"both": votes > 1} if len(others) > 1 else {}) | {"none": votes == 0}


def bins(p: Float[Tensor, "n k"], truth: Int64[Tensor, " n"]) -> pd.DataFrame:
    """A reliability diagram: faces, mean confidence and share that is right (%) by confidence, in ten equal widths."""
    confidence, name = p.max(1)
    which = (confidence * BINS).long().clamp(max=BINS - 1)
    n = torch.bincount(which, minlength=BINS)
    sums = [torch.zeros(BINS).index_add_(0, which, values) for values in (confidence, (name == truth).float())]
    said, right = (100 * s / n for s in sums)  # 0 / 0: no face, NaN
    return pd.DataFrame({"faces": n.tolist(), "said": said.tolist(), "right": right.tolist()})


# Tables


def counts_table(found: Sequence[Dump]) -> pd.DataFrame:
    """Every look of every run: how often the semantic level and the fusion are right (%), faces rescued and spoiled.

    difference: fused minus semantic, in points, with a 95 % interval over the faces; p: exact sign test of rescued
    against spoiled. Both take the trained network as given: they say nothing of other seeds.
    """
    lines = []
    for name, runs in grounds(found).items():
        for dump in runs:
            for at, step in enumerate(dump.steps):
                levels = look(dump, at)
                line = {"data": name, "seed": dump.config.seed, "step": step}
                lines.append(line | _compared(levels, dump.labels))
    columns = ["data", "seed", "step", "faces", "semantic", "fused", RESCUED, SPOILED, *COMPARED]
    return pd.DataFrame(lines, columns=columns)


def classes_table(found: Sequence[Dump]) -> pd.DataFrame:
    """The last look by true class, runs pooled; p also after Holm's correction over the classes."""
    lines = []
    for name, runs in grounds(found).items():
        levels, truth = pooled(runs)
        here = []
        for c, label in enumerate(runs[0].classes):
            if len(rows := (truth == c).nonzero()[:, 0]):
                compared = _compared({level: p[rows] for level, p in levels.items()}, truth[rows])
                here.append({"data": name, "class": label} | compared)
        for line, p in zip(here, significance.holm([line["p"] for line in here])):
            lines.append(line | {"p, Holm": p})
    columns = ["data", "class", "faces", "semantic", "fused", RESCUED, SPOILED, "difference", "p", "p, Holm"]
    return pd.DataFrame(lines, columns=columns)


def credit_table(found: Sequence[Dump]) -> pd.DataFrame:
    """Which level rescues or spoils which class: faces by true class and by who stands with the fusion; last look."""
    lines = []
    for name, runs in grounds(found).items():
        levels, truth = pooled(runs)
        who, what = credit(levels, runs[0].names), outcome(levels, truth)
        for c, label in enumerate(runs[0].classes):
            line = {"data": name, "class": label}
            for kind, faces in what.items():
                line |= {f"{kind}\n{whose}": int((faces & rows & (truth == c)).sum()) for whose, rows in who.items()}
            lines.append(line)
    return pd.DataFrame(lines)


def examples_table(shown: Shown | None) -> pd.DataFrame:
    """The faces of Figure 5: what the fusion does to each, and what each level says of it and how surely (%)."""
    if shown is None:
        return pd.DataFrame()
    levels, rows = look(shown.dump), examples(shown)
    rescued = outcome(levels, shown.dump.labels)[RESCUED]
    said = {name: p[rows] for name, p in levels.items()}
    table = tables.step_table(said, shown.dump.labels[rows], shown.dump.classes)
    table.insert(1, "it is", [RESCUED if rescued[row] else SPOILED for row in rows])
    return table[[c for c in table if not c.startswith("H ")]]


def training_table(found: Sequence[Dump]) -> pd.DataFrame:
    """How often each level is right (%) at each look, and the faces on which the fusion passes tau; runs pooled."""
    lines = []
    for name, runs in grounds(found).items():
        for at, step in enumerate(runs[0].steps):
            levels, truth = pooled(runs, at)
            line = {"data": name, "step": step} | {level: _right(p, truth) for level, p in levels.items()}
            if runs[0].tau is not None:
                sure = levels["fused"].max(1).values > runs[0].tau
                line["above tau"] = 100 * float(sure.float().mean())
                line["right, above"] = _right(levels["fused"][sure], truth[sure])
            lines.append(line)
    return pd.DataFrame(lines)


def reliability_table(found: Sequence[Dump]) -> pd.DataFrame:
    """Of each level at the last look: right (%), mean confidence (%), ECE in points (15 bins), and who claims more."""
    lines = []
    for name, runs in grounds(found).items():
        levels, truth = pooled(runs)
        for level, p in levels.items():
            line = {"data": name, "level": level, "right": _right(p, truth)}
            line["confidence"] = 100 * float(p.max(1).values.mean())
            line["ECE"] = 100 * metrics.calibration_error(p, truth)
            lines.append(line | {"it is": "too sure" if line["confidence"] > line["right"] else "not sure enough"})
    return pd.DataFrame(lines, columns=["data", "level", "right", "confidence", "ECE", "it is"])


def bins_table(found: Sequence[Dump]) -> pd.DataFrame:
    """The numbers of the reliability diagrams: by confidence, faces and how many of them are right (%)."""
    lines = []
    for name, runs in grounds(found).items():
        levels, truth = pooled(runs)
        drawn = {level: bins(p, truth) for level, p in levels.items()}
        for i in range(BINS):
            line = {"data": name, "confidence": f"{100 * i // BINS}-{100 * (i + 1) // BINS} %"}
            for level, frame in drawn.items():
                line |= {f"{level}\nfaces": int(frame["faces"][i]), f"{level}\nright": frame["right"][i]}
            if any(frame["faces"][i] for frame in drawn.values()):
                lines.append(line)
    return pd.DataFrame(lines)


def disagreement_table(found: Sequence[Dump]) -> pd.DataFrame:
    """Figure 3 in numbers: faces in ten equal parts, from agreeing to diverging levels; last look, runs pooled.

    disagreement (the levels' divergence), H alone (mean entropy of the levels), H fused, in nats: the first two add up
    to the third. top: largest probability of the fusion (%). right: how often semantic level and fusion are (%).
    """
    lines = []
    for name, runs in grounds(found).items():
        levels, truth = pooled(runs)
        values = disagreement(levels)
        for i, rows in enumerate(torch.tensor_split(values["disagreement"].argsort(stable=True), PARTS)):
            line = {"data": name, "part": i + 1, "faces": len(rows)}
            line |= {key: float(value[rows].mean()) for key, value in values.items()}
            line["top"] = 100 * float(levels["fused"][rows].max(1).values.mean())
            line |= {f"right,\n{key}": _right(levels[key][rows], truth[rows]) for key in ("semantic", "fused")}
            lines.append(line)
    return pd.DataFrame(lines)


def disagreement(levels: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " n"]]:
    """Of each face: divergence of the levels, mean entropy of the levels, entropy of the fusion, in nats."""
    alone = torch.stack([entropy(p) for name, p in levels.items() if name != "fused"]).mean(0)
    return {"disagreement": divergence(levels), "H alone": alone, "H fused": entropy(levels["fused"])}


# Sentences


def coverage(study: profiles.Profile, found: Sequence[Dump], faces: Shown | None) -> str:
    """Which dumps there are, what to do for those that are missing, whose faces are shown."""
    own = [dump for dump in found if dump.path.parent.parent == study.results]
    lines = [
        f"{name}: seed {', '.join(str(d.config.seed) for d in runs)}; {len(runs[0].rows):,} unlabelled faces of each; "
        f"steps {', '.join(map(str, runs[0].steps))}"
        for name, runs in grounds(found).items()
    ]
    if not own:
        data = tables.data_name(study.dataset)
        remedy = f"python -m fercore dump {study.name} --labels {max(study.labels)} --data-root DIR"
        lines.insert(0, f"{data}: not run: there is no dump; `{remedy}` makes it")
    whose = f"{tables.data_name(faces.dump.config.dataset)}" if faces else "none: no pictures are at hand"
    return "\n".join([*lines, f"faces shown: {whose}"])


def answer(study: profiles.Profile, found: Sequence[Dump]) -> str:
    """What the fusion rescues and spoils at the last look, ground by ground."""
    sentences = []
    if not any(dump.config.dataset == study.dataset for dump in found):
        sentences.append(f"{tables.data_name(study.dataset)}: not run.")
    for name, runs in grounds(found).items():
        c = _compared(*pooled(runs))
        shares = [100 * c[kind] / c["faces"] for kind in (RESCUED, SPOILED)]
        told = "tells the two apart" if c["p"] < ALPHA else "does not tell the two apart"
        p = f"p = {c['p']:.3f}" if c["p"] >= 0.001 else "p < 0.001"
        sentences.append(
            f"On {name} the fusion rescues {c[RESCUED]:,} of {c['faces']:,} unlabelled faces ({shares[0]:.1f} %) and "
            f"spoils {c[SPOILED]:,} ({shares[1]:.1f} %): {c['difference']:+.2f} points for the pseudo-labels, "
            f"{c['lower']:+.2f} to {c['upper']:+.2f} (95 %, over the faces; n = {len(runs)} "
            f"{'run' if len(runs) == 1 else 'runs'}). A sign test {told} ({p})."
        )
    return "\n".join(sentences)


def smoothing(found: Sequence[Dump]) -> str:
    """What fusing does to entropy where the levels agree and where they differ, ground by ground."""
    said = [f"{name}\n{tables.smoothing(pooled(runs)[0])}" for name, runs in grounds(found).items()]
    return "\n".join(said) or "not run"


def verdict(found: Sequence[Dump]) -> str:
    """Figure 5's statement, counted at the last look, one line for each ground; a single run gives no more than partly.

    Reproduced: every run rescues more than it spoils, and the interval over the faces lies above 0.
    """
    lines = []
    for name, runs in grounds(found).items():
        gains = [_compared(look(dump), dump.labels)["difference"] for dump in runs]
        c = _compared(*pooled(runs))
        sure = len(runs) > 1 and c["lower"] > 0 and min(gains) > 0
        state = claims.REPRODUCED if sure else claims.PARTLY if c["difference"] > 0 else claims.NOT_REPRODUCED
        spread = f", {min(gains):+.2f} to {max(gains):+.2f} over {len(gains)} runs" if len(gains) > 1 else ", one run"
        counts = f"{c[RESCUED]} rescued, {c[SPOILED]} spoiled, {c['difference']:+.2f} points"
        lines.append(f"{name}: {tables.SAID[state]}: {counts}{spread}")
    return "\n".join(lines) or "not run"


def provenance(found: Sequence[Dump]) -> str:
    """Each dump: which training made it, and whether that gave the record beside it, digit for digit."""
    lines = []
    for name, runs in grounds(found).items():
        for dump in runs:
            beside = records.finished(records.read(dump.path.parent.parent / "records.jsonl"))
            known, made = beside.get(dump.config.key), dump.about["provenance"]
            if known is None:
                said = "there is no record of its run"
            elif all(known["metrics"][head]["mean_last5"] == of for head, of in dump.about["metrics"].items()):
                said = "metrics equal to its record's"
            else:
                both = (known["metrics"]["classifier"]["mean_last5"], dump.about["metrics"]["classifier"])
                said = "trained again elsewhere: accuracy {:.2f}, on record {:.2f}".format(
                    *(100 * m["accuracy"] for m in reversed(both))
                )
            lines.append(f"dump      {name} seed {dump.config.seed}: {made['device']}, {made['finished'][:10]}; {said}")
    return "\n".join(lines) or "dump      none"


# Parts

COMPARED = ["difference", "lower", "upper", "p"]


def _compared(levels: Mapping[str, Tensor], truth: Int64[Tensor, " n"]) -> dict:
    """Semantic level and fusion on the same faces."""
    n = len(truth)
    rescued, spoiled = (int(rows.sum()) for rows in outcome(levels, truth).values())
    low, high = significance.counted_interval(rescued, spoiled, n)
    out = {"faces": n, "semantic": _right(levels["semantic"], truth), "fused": _right(levels["fused"], truth)}
    out |= {RESCUED: rescued, SPOILED: spoiled, "difference": 100 * (rescued - spoiled) / n}
    return out | {"lower": 100 * low, "upper": 100 * high, "p": significance.sign_test(rescued, spoiled)}


def _right(p: Float[Tensor, "n k"], truth: Int64[Tensor, " n"]) -> float:
    """Share of the faces (%) whose class is named; NaN of none."""
    return 100 * float((p.argmax(1) == truth).float().mean()) if len(truth) else math.nan
