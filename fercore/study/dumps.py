"""Dumps: what each level said of some unlabelled faces (training/levels.py), stored beside the record of the run.

`results/<profile>/dumps/KEY.safetensors`: half-precision probabilities, which faces
of the data set they are of, the hidden labels. No picture is in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fercore import files, tensors
from fercore.config import Run
from fercore.errors import UserError, reason
from fercore.training.levels import LevelLog

SIZE = 2000  # faces: with five evaluations, three levels and seven classes, 0.43 MB
NOTEBOOK = "14_figure5_pseudo_labels"  # shows them


@dataclass(frozen=True)
class Dump:
    """What a run left. `rows` [n] are positions in the data set, `labels` [n] the hidden labels.

    `tau` is the threshold of the method, None where it has none; `about` says where it comes from: fingerprint of the
    data, mean metrics and provenance of the training that made it.
    """

    path: Path
    config: Run
    classes: tuple[str, ...]
    names: tuple[str, ...]  # of the levels
    steps: tuple[int, ...]
    tau: float | None
    rows: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    said: dict[str, Float[Tensor, "s n k"]]  # of each level, at each of the steps
    about: dict

    def levels(self, look: int = -1) -> dict[str, Float[Tensor, "n k"]]:
        """The probabilities of each level at `steps[look]`; rows sum to 1 again after their rounding."""
        p = {name: said[look].float() for name, said in self.said.items()}
        return {name: level / level.sum(1, keepdim=True) for name, level in p.items()}


def file(results: Path, key: str) -> Path:
    """Where the dump of a run lies."""
    return results / "dumps" / f"{key}.safetensors"


def write(results: Path, log: LevelLog, record: Mapping, labels: Int64[Tensor, " n"]) -> None:
    """Store the dump of the run with this record, atomically."""
    steps = sorted(log.seen)
    names = list(log.seen[steps[0]])
    kept = {f"level/{name}": torch.stack([log.seen[step][name] for step in steps]) for name in names}
    kept |= {"rows": log.rows.int(), "labels": labels.to(torch.uint8)}
    about = {"config": record["config"], "classes": record["data"]["classes"], "levels": names, "steps": steps}
    about |= {"tau": record["constants"].get("tau"), "fingerprint": record["data"]["fingerprint"]}
    means = {head: of["mean_last_fifth"] for head, of in record["metrics"].items() if of}
    about |= {"metrics": means, "provenance": record["provenance"]}
    tensors.save(file(results, record["key"]), kept, {"dump": files.canonical(about)})


def read(results: Path, config: Run) -> Dump | None:
    """The dump of a run; None where there is none. Raises UserError if it is damaged."""
    path = file(results, config.key)
    if not path.exists():
        return None
    try:
        kept, metadata = tensors.load(path)
        about = json.loads(metadata["dump"])
        rows, labels = (kept[name].long() for name in ("rows", "labels"))
        classes, names, steps = (tuple(about.pop(name)) for name in ("classes", "levels", "steps"))
        said = {name: kept[f"level/{name}"] for name in names}
        config, tau = Run.from_dict(about.pop("config")), about.pop("tau")
        return Dump(path, config, classes, names, steps, tau, rows, labels, said, about)
    except Exception as error:  # what safetensors raises on damaged bytes has no common base
        raise UserError(f"{path}: damaged dump ({reason(error)}); delete it, or restore it with git") from None
