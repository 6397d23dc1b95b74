"""Table III and the question behind it: do the words mean anything to the model?

What the vectors of the classes are worth before any training. The points are those of ablations.py, one axis for each
encoder, one value for each prompt.
"""

from collections.abc import Iterable, Mapping

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fercore import text
from fercore.analysis import ablations
from fercore.config import Run
from fercore.data.expressions import EXPRESSIONS
from fercore.methods.sitfer import Config

Vectors = dict[tuple[str, str], Float[Tensor, "k t"] | None]  # by (encoder, prompt); None where they are not stored


def classes(made: Iterable[Mapping]) -> tuple[str, ...]:
    """The classes in the order of the runs; without a finished run all seven expressions."""
    done = (r for r in made if r["kind"] == "run" and r["status"] == "finished")
    return next((tuple(r["data"]["classes"]) for r in done), EXPRESSIONS)


def vectors(points: pd.DataFrame, classes: tuple[str, ...]) -> Vectors:
    """The vectors of these points. No encoder runs, nothing is fetched.

    What lies in this machine's cache counts only with a run of that encoder: the committed records give the same tables
    everywhere.
    """
    ran = set(points.varied[points.status == "finished"])
    asked = points[["varied", "value"]].drop_duplicates().itertuples(index=False, name=None)
    return {(e, p): text.stored(e, p or Run.prompt, classes, cached=e in ran) for e, p in asked}


def cosines_table(vectors: Vectors, classes: tuple[str, ...]) -> pd.DataFrame:
    """Cosines between the classes, and the least loss L_t that the vectors allow.

    closest: the two classes with the largest cosine. least L_t: for the best feature there could be (`least_loss`), a
    mean over the classes, at our T.
    """
    lines = []
    for (encoder, prompt), rows in vectors.items():
        line = {"encoder": encoder, "prompt": ablations.shown(prompt), "width": "not run"}
        if rows is not None:
            pairs = torch.triu_indices(len(rows), len(rows), 1)
            values = cosines(rows)[pairs[0], pairs[1]]
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
