"""One run of a study: found in the records, or trained, then stored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fercore.config import Run
from fercore.data import prepare
from fercore.errors import UserError
from fercore.methods.api import budget, source
from fercore.study import dumps, records, starts
from fercore.training import checkpoint, devices, loop
from fercore.training.checkpoint import Checkpoint


def weights(results: Path, key: str) -> Path:
    """Where `--keep-weights` leaves those of a run."""
    return results / "weights" / f"{key}.pt"


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

    A run that is there in the precision of this device is not trained again. An interrupted one goes on from its last
    checkpoint and ends in the same record (provenance apart). Raises UserError for bad input, and where the method was
    registered anew, with other code, since the run was listed.
    """
    code = source(config.method)
    if config.source not in ("", code):
        raise UserError(f"{config.method}: not the code that this run was listed with; list the runs anew")
    config = replace(config, labels=budget(config.method, config.labels), source=code)
    where = devices.choose(device)
    precision = devices.precision(config.precision, where)
    identity, file = records.identity(config, precision), results / "records.jsonl"
    if done := records.by_identity(records.read(file)).get(identity):
        return done
    data = prepare.prepare(
        config.dataset,
        data_root,
        size=config.image_size,
        drop_duplicates=config.drop_duplicates,
        options=config.dataset_options,
    )
    saved = Checkpoint(results / "checkpoints" / f"{identity}.pt", checkpoint_every)
    start = starts.of(config, results)
    made = loop.run(config, data, start, device=where, checkpoint=saved, log=dump, progress=progress, watch=watch)
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
        dumps.write(results, made.log, record, data.faces.labels[made.log.rows])
    records.append(file, record)
    saved.remove()
    return record
