"""Table III and the question behind it: do the words mean anything to the model?

Prompts and encoders around SIT-FER: tables, sentences, and what the prompt vectors are worth before any training. The
settings are those of around.py, one axis for each encoder, one value for each prompt.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fercore import text
from fercore.analysis import ablations, comparison, tables
from fercore.analysis import claims as published
from fercore.analysis.ablations import Setting
from fercore.config import Run
from fercore.data.expressions import EXPRESSIONS
from fercore.methods.sitfer import Config

TABLE = "sit-fer/III"


# Tables


def table3(found: Sequence[Setting]) -> pd.DataFrame:
    """Table III: the prompts to the profile's own encoder, the published columns beside ours."""
    cells = [c for c in published.load() if c.id.startswith(f"{TABLE} ")]
    titles = {c.column: tables.heading(c.column, "/") for c in cells}
    lines = []
    for s in own(found):
        line = {"labels": s.labels, "prompt": s.value}
        for cell in cells:
            if cell.says == s.value:
                line |= {titles[cell.column]: cell.value, f"{titles[cell.column]} ±": cell.spread}
        lines.append(line | ablations.result(s))
    columns = [part for name in (*titles.values(), "ours", "difference") for part in (name, f"{name} ±")]
    return pd.DataFrame(lines, columns=["labels", "prompt", *columns, "n", "failed"])


def encoders_table(found: Iterable[Setting]) -> pd.DataFrame:
    """Every encoder with every prompt: accuracy, and how often the text level itself is right.

    difference: from the profile's own encoder with its own prompt, paired over seeds. text, fused right: shares of the
    unlabelled faces; kept: of these in the loss; means over the last five evaluations.
    """
    lines = []
    for s in found:
        line = {"labels": s.labels, "encoder": s.axis, "prompt": ablations.shown(s.value)} | ablations.result(s)
        line |= {f"{level}\nright": ablations.tail(s.done, "level_accuracy", level) for level in ("text", "fused")}
        lines.append(line | {"kept": ablations.tail(s.done, "kept")})
    columns = ["labels", "encoder", "prompt", "ours", "ours ±", "difference", "difference ±"]
    return pd.DataFrame(lines, columns=[*columns, "text\nright", "fused\nright", "kept", "n", "failed"])


def cosines_table(found: Sequence[Setting]) -> pd.DataFrame:
    """The vectors themselves: cosines between classes, and the least loss L_t that they allow.

    closest: the two classes with the largest cosine. least L_t: for the best feature there could be (`least_loss`), a
    mean over the classes, at our T.
    """
    classes, lines = names(found), []
    for (encoder, prompt), rows in vectors(found).items():
        line = {"encoder": encoder, "prompt": ablations.shown(prompt), "width": "not run"}
        if rows is not None:
            between = cosines(rows)
            pairs = torch.triu_indices(len(rows), len(rows), 1)
            values = between[pairs[0], pairs[1]]
            a, b = pairs[:, int(values.argmax())].tolist()
            line |= {"width": str(rows.shape[1]), "mean cosine": float(values.mean())}
            line |= {"smallest": float(values.min()), "largest": float(values.max())}
            # Equal cosines differ in rounding alone: then no pair is the closest.
            alike = float(values.max() - values.min()) < 1e-5
            line["closest"] = "" if alike else f"{classes[a]}, {classes[b]}"
            line["least L_t"] = float(least_loss(rows, Config.t_text).mean())
        lines.append(line)
    columns = ["encoder", "prompt", "width", "mean cosine", "smallest", "largest", "closest", "least L_t"]
    return pd.DataFrame(lines, columns=columns)


# Sentences


def meaning(found: Sequence[Setting]) -> str:
    """Whether the right words do better than the same under wrong classes, than other vectors, than none."""
    lines = []
    for labels in dict.fromkeys(s.labels for s in found):
        here = [s for s in found if s.labels == labels]
        asked = [s for s in here if s.value in ("", Run.prompt)]
        base = next(s for s in asked if s.chosen)
        lines.append(f"{tables.budget_name(labels)}, prompt {base.value!r}:")
        wrong = next(s for s in asked if s.axis.startswith("shuffled:"))
        lines.append(f"  {comparison.said(wrong.axis, base.axis, list(wrong.difference().values()))}")
        ran = [s for s in asked if s.done]
        if base.done and len(ran) > 1:
            over = {s.axis: statistics.fmean(d) for s in ran if (d := s.difference().values())}
            rank = 1 + sum(points > over[base.axis] for points in over.values())
            best, worst = max(over, key=over.__getitem__), min(over, key=over.__getitem__)
            lines.append(
                f"  Of {len(over)} sets of vectors {base.axis} is number {rank}: over it, seed by seed, from "
                f"{over[best]:+.2f} ({best}) to {over[worst]:+.2f} points ({worst})."
            )
            right = {s.axis: ablations.tail(s.done, "level_accuracy", "text") for s in ran}
            said = [f"{axis} {share:.1f} %" for axis, share in right.items() if not math.isnan(share)]
            lines.append(f"  The text level itself is right with {', '.join(said)}." if said else "")
        idle = [s.axis for s in ran if ablations.tail(s.done, "kept") < tables.IDLE]
        lines += [f"  No pseudo-label passed the threshold with {', '.join(idle)}."] if idle else []
    return "\n".join(line for line in lines if line)


def spread(found: Sequence[Setting]) -> str:
    """How far apart the prompts are for each encoder that reads them, published and ours: points from best to worst."""
    cells = [c for c in published.load() if c.id.startswith(f"{TABLE} ")]
    lines = []
    for column in dict.fromkeys(c.column for c in cells):
        values = [c.value for c in cells if c.column == column]
        spreads = [c.spread for c in cells if c.column == column and c.spread is not None]
        said = f"; a prompt's spread over seeds is {min(spreads):.2f} to {max(spreads):.2f}" if spreads else ""
        lines.append(f"published, {tables.heading(column, '/')}: {max(values) - min(values):.2f} points{said}")
    for labels, axis in dict.fromkeys((s.labels, s.axis) for s in found if s.value):
        ran = [s for s in found if (s.labels, s.axis) == (labels, axis) and s.done]
        means = ablations.means(ran).values()
        one = " (one seed)" if ran and min(len(s.done) for s in ran) == 1 else ""
        distance = f"{max(means) - min(means):.2f} points{one}" if len(means) > 1 else published.NOT_RUN
        several = f", {len(means)} of {len(text.PROMPTS)} prompts" if 1 < len(means) < len(text.PROMPTS) else ""
        lines.append(f"ours, {axis}, {tables.budget_name(labels)}: {distance}{several}")
    return "\n".join(lines)


# The vectors


def vectors(found: Sequence[Setting]) -> dict[tuple[str, str], Float[Tensor, "k t"] | None]:
    """(encoder, prompt) -> vectors; None where they are not stored. No encoder runs, nothing is fetched.

    What lies in this machine's cache counts only with a run of that encoder: the committed records give the same tables
    everywhere.
    """
    classes, out = names(found), {}
    ran = {s.axis for s in found if s.done}
    for s in found:
        out[s.axis, s.value] = text.stored(s.axis, s.value or Run.prompt, classes, cached=s.axis in ran)
    return out


def cosines(vectors: Float[Tensor, "k t"]) -> Float[Tensor, "k k"]:
    """Between every two classes; the rows have unit length."""
    return (vectors @ vectors.T).clamp(-1, 1)


def least_loss(vectors: Float[Tensor, "k t"], temperature: float, steps: int = 500) -> Float[Tensor, " k"]:
    """The least that L_t (2-4) can be for each class, over all features: what these vectors cost at best.

    L_t = log(1 + exp g) with g = log sum_j exp((t_j - t_k) f / T) over the other classes, convex in f; a unit f does as
    well as any in the ball. Accelerated projected gradient on g, all classes at once.
    """
    t = vectors.double()
    u, s, _ = torch.linalg.svd(t - t.mean(0), full_matrices=False)
    t = u * s  # what all classes share cancels; the differences need at most k dimensions
    own = torch.eye(len(t), dtype=torch.bool)

    def others(f: Tensor) -> Tensor:
        return (f @ t.T / temperature).masked_fill(own, -torch.inf)

    rate = temperature**2 / (2 * s[0]).square()  # 1 / Lipschitz, at least
    f = ahead = t / t.norm(dim=1, keepdim=True)
    for i in range(steps):
        moved = ahead - rate * (others(ahead).softmax(1) @ t - t) / temperature
        moved = moved / moved.norm(dim=1, keepdim=True).clamp_min(1)
        f, ahead = moved, moved + i / (i + 3) * (moved - f)
    return F.softplus(others(f).logsumexp(1) - (f * t).sum(1) / temperature).float()


def names(found: Iterable[Setting]) -> tuple[str, ...]:
    """The classes in the order of the runs; without a run all seven expressions."""
    done = next((r for s in found for r in s.done), None)
    return tuple(done["data"]["classes"]) if done else EXPRESSIONS


def own(found: Sequence[Setting]) -> list[Setting]:
    """The settings of the profile's own encoder: the first one."""
    return [s for s in found if s.axis == found[0].axis and s.value]


def own_runs(found: Sequence[Setting]) -> list[Mapping]:
    """Their runs: those that a published statement about prompts is tested on."""
    return list({r["key"]: r for s in own(found) for r in s.runs}.values())
