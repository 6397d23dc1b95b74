"""One run of a study: found in the records, or trained, then stored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fercore.config import Run
from fercore.data import prepare
from fercore.errors import UserError
from fercore.methods.api import budget, source
from fercore.study import dumps, records, starts
from fercore.study import identity as identities
from fercore.training import checkpoint, devices, loop
from fercore.training.checkpoint import Checkpoint


def weights(results: Path, key: str) -> Path:
    """Where `--keep-weights` leaves those of a run."""
    return results / "weights" / f"{key}.pt"


def has_data(dataset: str, data_root: str | Path | None) -> bool:
    """Whether the data are at hand: rendered faces always are."""
    return dataset == "facs" or (data_root is not None and Path(data_root).exists())


def make(
    config: Run,
    *,
    data_root: str | Path | None = None,
    results: Path,
    device: str = "auto",
    checkpoint_every: int = 200,
    keep_weights: bool = False,
    dump: int = 0,
    progress: bool = True,
    watch: Callable[[int], None] | None = None,
) -> dict:
    """The record of a run, from `results`/records.jsonl or made and appended to it.

    With `keep_weights` the averaged model and the method's state stay in `results`/weights/KEY.pt. With `dump`, what
    the levels say of so many unlabelled faces stays in `results`/dumps (dumps.py); it changes nothing of the training.
    `watch` is told how many steps are done, after each.

    A run that is there in the precision of this device is not trained again; without the data, one of any precision is
    returned. An interrupted one goes on from its last checkpoint and ends in the same record (provenance apart). Raises
    UserError for bad input, and for a method whose code is no longer what the run was listed with.
    """
    code = source(config.method)
    config = replace(config, labels=budget(config.method, config.labels), source=config.source or code)
    where = devices.choose(device)
    precision = devices.precision(config.precision, where)
    identity, file = records.identity(config, precision), results / "records.jsonl"
    known = records.read(file)
    done = records.by_identity(known).get(identity)
    if done is None and not has_data(config.dataset, data_root):
        done = records.finished(known).get(config.key)
    if done:
        return done
    loop.check(config)  # a wrong name is said before a data set is decoded
    if config.source != code:
        raise UserError(f"{config.method}: its code has changed since this run was listed, or is not here")
    data = prepare.of(config, data_root)
    saved = Checkpoint(results / "checkpoints" / f"{identity}.pt", checkpoint_every)
    start = starts.of(config, results)
    whole = identities.of(config, data, start, precision)
    try:
        made = loop.run(config, data, start, device=where, checkpoint=saved, log=dump, progress=progress, watch=watch)
    except Exception as error:
        error.identity = whole  # for the record of a failed run
        raise
    record = {
        "key": config.key,
        "kind": "run",
        "status": "finished",
        **made.record,
        "provenance": records.provenance(where, precision, made.seconds, config.steps),
    }
    if keep_weights:
        checkpoint.save(weights(results, config.key), made.weights)
    if made.log and made.log.whole:
        dumps.write(results, made.log, record, torch.from_numpy(data.faces.labels)[made.log.rows])
    records.append(file, record)
    saved.remove()
    return record
