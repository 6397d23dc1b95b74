"""Dumps: what each level said of some unlabelled faces, at evaluations spread over a run.

`train.run` writes one on request, `results/<profile>/dumps/KEY.safetensors`: half-precision probabilities, which faces
of the data set they are of, the hidden labels. No picture is in it. Only evaluations that are asked for are read.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fercore import records
from fercore.config import Run
from fercore.errors import UserError, reason
from fercore.randomness import generator

SIZE = 2000  # faces: with five evaluations, three levels and seven classes, 0.43 MB
LOOKS = 5  # evaluations, at most
NOTEBOOK = "14_figure5_pseudo_labels"  # shows them


@dataclass(frozen=True)
class Dump:
    """A dump on disk. `rows` [n] are positions in the data set, `labels` [n] the hidden labels.

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
    about: dict

    def levels(self, look: int = -1) -> dict[str, Float[Tensor, "n k"]]:
        """The probabilities of each level at `steps[look]`, read now; rows sum to 1 again after their rounding."""
        look = range(len(self.steps))[look]
        with safe_open(self.path, "pt") as file:
            p = {name: file.get_slice(f"level/{name}")[look].float() for name in self.names}
        return {name: level / level.sum(1, keepdim=True) for name, level in p.items()}


@dataclass
class Unfinished:
    """The dump of a run that is under way; it goes into the run's checkpoint."""

    rows: Int64[Tensor, " n"]
    steps: set[int]  # at which to look
    seen: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # step -> level -> float16 [n, k]

    @property
    def whole(self) -> bool:
        """Whether all looks are there. Where a checkpoint was made without a dump, the first ones are not."""
        return set(self.seen) == self.steps

    def add(self, step: int, levels: Mapping[str, Tensor]) -> None:
        """What the levels [n, k] say at this step."""
        self.seen[step] = {name: p.to("cpu", torch.float16) for name, p in levels.items()}

    def state_dict(self) -> dict:
        """Tensors and plain values."""
        return {"rows": self.rows, "seen": self.seen}

    def load_state_dict(self, saved: Mapping) -> None:
        """The inverse of `state_dict`; what was dumped of other faces is left out."""
        if torch.equal(self.rows, saved["rows"].cpu()):
            self.seen = {}
            for step in sorted(self.steps & set(saved["seen"])):
                self.add(step, saved["seen"][step])


def begin(rows: Int64[Tensor, " u"], size: int, split_seed: int, evaluated: Iterable[int]) -> Unfinished | None:
    """An empty dump of `size` of these unlabelled faces; None where there is none or none is asked for.

    Which faces is a function of the split's seed alone, when to look one of the evaluations' steps: equal for all
    methods and seeds of a split. Raises UserError for a negative size.
    """
    if size < 0:
        raise UserError(f"dump: {size}; expected a number of faces, or 0 for none")
    chosen = rows[torch.randperm(len(rows), generator=generator(split_seed, "dump"))[:size]].sort().values
    steps = sorted(evaluated)
    looks = min(LOOKS, len(steps))
    at = {steps[round(len(steps) * (i + 1) / looks) - 1] for i in range(looks)}
    return Unfinished(chosen, at) if len(chosen) else None


def file(results: Path, key: str) -> Path:
    """Where the dump of a run lies."""
    return results / "dumps" / f"{key}.safetensors"


def write(results: Path, dump: Unfinished, record: Mapping, labels: Int64[Tensor, " n"]) -> None:
    """Store the dump of the run with this record, atomically."""
    steps = sorted(dump.seen)
    names = list(dump.seen[steps[0]])
    tensors = {f"level/{name}": torch.stack([dump.seen[step][name] for step in steps]) for name in names}
    tensors |= {"rows": dump.rows.int(), "labels": labels.to(torch.uint8)}
    about = {"config": record["config"], "classes": record["data"]["classes"], "levels": names, "steps": steps}
    about |= {"tau": record["constants"].get("tau"), "fingerprint": record["data"]["fingerprint"]}
    means = {head: of["mean_last5"] for head, of in record["metrics"].items() if of}
    about |= {"metrics": means, "provenance": record["provenance"]}
    path = file(results, record["key"])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={"dump": records.canonical(about)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(results: Path, config: Run) -> Dump | None:
    """The dump of a run, its probabilities not yet read; None where there is none. Raises UserError if damaged."""
    path = file(results, config.key)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads(stored.metadata()["dump"])
            rows, labels = (stored.get_tensor(name).long() for name in ("rows", "labels"))
        classes, names, steps = (tuple(about.pop(name)) for name in ("classes", "levels", "steps"))
        config, tau = Run.from_dict(about.pop("config")), about.pop("tau")
        return Dump(path, config, classes, names, steps, tau, rows, labels, about)
    except Exception as error:  # what safetensors raises on damaged bytes has no common base
        raise UserError(f"{path}: damaged dump ({reason(error)}); delete it, or restore it with git") from None


def complete(
    study: "fercore.sweep.Profile", config: Run, size: int = SIZE, *, device: str = "auto", progress: bool = True
) -> Dump | None:
    """The dump of a run. Where it is missing and the data are at hand, it is made; else None.

    A run that has a record is trained again, from the same start, and nothing of that but the dump is kept. Its
    checkpoint lies beside the dumps, so that an interrupted call goes on. Raises UserError where what made the record
    and this code and machine are alike and the metrics are not.
    """
    from fercore import pretrain, sweep, train  # they import this module

    if (found := read(study.results, config)) or not sweep.ready(study):
        return found
    done = records.finished(records.read(study.records)).get(config.key)
    if done is None:
        sweep.complete(study, [config], device=device, dump=size, progress=progress)
        return read(study.results, config)
    sweep.begin(study, device=device, progress=progress)
    folder = study.results / "dumps" / config.key
    if study.pretrain:
        start = pretrain.file(folder, study.pretrain.key)
        start.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pretrain.file(study.results, study.pretrain.key), start)
    place = {"data_root": study.data_root, "results": folder, "device": device}
    again = train.run(config, **place, dump=size, progress=progress)
    if alike(done, again) and done["metrics"] != again["metrics"]:
        was, now = (record["metrics"]["classifier"]["last"]["accuracy"] for record in (done, again))
        raise UserError(
            f"{config.key}: trained again it does not give its record (last accuracy {now}, on record {was}), so its "
            f"dump is not kept; the new record and dump lie in {folder}"
        )
    if file(folder, config.key).exists():
        os.replace(file(folder, config.key), file(study.results, config.key))
    shutil.rmtree(folder)
    return read(study.results, config)


def alike(one: Mapping, other: Mapping) -> bool:
    """Whether two records were made by one code, on one kind of machine, from one start: they should be equal."""
    made = [
        [record["start"]["sha256"], record["provenance"]["versions"]["torch"]]
        + [record["provenance"].get(name) for name in ("device", "threads", "precision", "source")]
        for record in (one, other)
    ]
    return made[0] == made[1]
