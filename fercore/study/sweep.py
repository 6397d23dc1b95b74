"""A profile's runs: which are missing, making them, and bringing together what several machines made.

A run that is in the records is never trained again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from fercore import encoders, files, text
from fercore.config import Run
from fercore.data import expressions, prepare
from fercore.data.prepare import Data
from fercore.errors import RunFailed, UserError
from fercore.study import cost, dumps, records, runs, starts, workers
from fercore.study.profiles import Profile
from fercore.training import devices, loop, pretrained


def missing(study: Profile, wanted: Iterable[Run] | None = None, device: str = "auto") -> list[Run]:
    """The runs, by default of the grid, that have no finished record.

    Where the data are at hand, and the run so could be made, its record has to be of this device's precision.
    """
    wanted, known = study.runs() if wanted is None else list(wanted), records.read(study.records)
    if not ready(study):
        done = records.finished(known)
        return [config for config in wanted if config.key not in done]
    here, made = devices.choose(device), records.by_identity(known)
    return [c for c in wanted if records.identity(c, devices.precision(c.precision, here)) not in made]


def failed(study: Profile, wanted: Iterable[Run] | None = None, device: str = "auto") -> list[tuple[Run, dict]]:
    """Missing runs whose last try failed, each with its record; none without the data, as nothing is tried then."""
    last = {record["key"]: record for record in records.read(study.records) if record["status"] == "failed"}
    if not last or not ready(study):
        return []
    return [(config, last[config.key]) for config in missing(study, wanted, device) if config.key in last]


def given_up(study: Profile, wanted: Iterable[Run] | None = None, device: str = "auto") -> list[Run]:
    """Runs that failed with this code, on these faces, in this precision: tried again only where that is asked for."""
    some, code, data = failed(study, wanted, device), records.source_hash(), faces(study)
    out, here = [], devices.choose(device)
    for config, record in some:
        made, on = record.get("provenance", {}), record.get("identity")
        if (made.get("source"), made.get("precision")) != (code, devices.precision(config.precision, here)):
            continue
        if on is None or on["data"] == data(config).faces.fingerprint:
            out.append(config)
    return out


def said(given_up: Sequence[Run]) -> list[str]:
    """That these are not tried again, in a line."""
    number = f"{len(given_up)} run{'s' * (len(given_up) > 1)}"
    return [f"{number} failed before with this code, not tried again; --retry tries"] if given_up else []


def judge(study: Profile, wanted: Iterable[Run] | None = None, device: str = "auto") -> None:
    """Raises RunFailed where some of these runs have failed, with a line for each reason."""
    reasons: dict[str, list[str]] = {}
    for config, record in failed(study, wanted, device):
        name = f"{config.method}/{config.labels or 'all'}/{config.seed}"
        reasons.setdefault(record["error"].splitlines()[0], []).append(name)
    if reasons:
        lines = [f"  {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in reasons.items()]
        number = sum(map(len, reasons.values()))
        raise RunFailed("\n".join([f"{study.records}: {number} run{'s' * (number > 1)} failed", *lines]))


def ready(study: Profile) -> bool:
    """Whether the data are at hand."""
    return runs.has_data(study.dataset, study.data_root)


def complete(
    study: Profile,
    wanted: Iterable[Run] | None = None,
    *,
    device: str = "auto",
    keep_weights: bool = False,
    dump: int = 0,
    processes: int = 1,
    retry: bool = False,
    progress: bool = True,
) -> list[dict]:
    """Make what is missing, the start first, and return all records of the profile.

    With `keep_weights` and `dump`, what is made leaves its weights and its dump; what has its record does not.
    Several processes share the device and take the runs one after another.

    Without the data nothing is trained: the committed records are returned, and a table shows the
    rest as "not run"; so it does with a run whose text encoder is not the profile's own and not at hand. A run that
    fails leaves a record with its error and does not stop the others, and is not tried again by the same code but with
    `retry`; bad input (UserError) and Ctrl-C do stop. Both leave every finished run on disk.
    """
    if ready(study):
        without = [] if retry else given_up(study, wanted, device)
        todo = [config for config in missing(study, wanted, device) if config not in without]
        own = study.shared.get("text", Run.text)
        if todo := [config for config in ordered(todo) if config.text == own or at_hand(config.text)]:
            fit(study, todo)
            begin(study, device=device, progress=progress)
            place = {"data_root": study.data_root, "results": study.results, "device": device}
            place |= {"keep_weights": keep_weights, "dump": dump}
            workers.make(study.name, todo, place, processes=processes, progress=progress)
    return records.with_repeats(study.records)


def fit(study: Profile, todo: Iterable[Run]) -> None:
    """Raises UserError for a run that these faces, words or weights cannot make: not at its turn, but at once."""
    data = faces(study)
    for config in todo:
        loop.inputs(config, data(config))
    if not study.pretrain:
        for one in {config.encoder: config for config in todo}.values():
            pretrained.load(encoders.backbone(one.encoder)[0], starts.of(one, study.results))


def faces(study: Profile) -> Callable[[Run], Data]:
    """The faces of a run; several runs on the same ones read them once."""

    @cache
    def read(options: str, size: int, drop: bool) -> Data:
        place = {"size": size, "drop_duplicates": drop, "options": json.loads(options)}
        return prepare.prepare(study.dataset, study.data_root, **place)

    return lambda config: read(files.canonical(config.dataset_options), config.image_size, config.drop_duplicates)


@cache
def at_hand(encoder: str) -> bool:
    """Whether this text encoder's vectors can be had here, from the cache, from its weights or from a network."""
    try:
        return text.table(encoder, Run.prompt, expressions.EXPRESSIONS) is not None
    except UserError:
        return False


def begin(study: Profile, *, device: str = "auto", progress: bool = True) -> None:
    """Make the start that the profile's runs share, where it is missing."""
    if not study.pretrain or (weights := starts.file(study.results, study.pretrain.key)).exists():
        return
    place = {"data_root": study.data_root, "results": study.results, "device": device}
    with workers.claim(study.results, study.pretrain.key):
        if not weights.exists():  # by now: another sweep may have made it
            starts.make(study.pretrain, **place, progress=progress)


def dump(
    study: Profile, config: Run, size: int = dumps.SIZE, *, device: str = "auto", progress: bool = True
) -> dumps.Dump | None:
    """The dump of a run. Where it is missing and the data are at hand, it is made; else None.

    A run that has a record is trained again, from the same start, and nothing of that but the dump is kept. Its
    checkpoint lies beside the dumps, so that an interrupted call goes on. Raises UserError where what made the record
    and this code and machine are alike and the metrics are not.
    """
    if (found := dumps.read(study.results, config)) or not ready(study):
        return found
    done = records.finished(records.read(study.records)).get(config.key)
    if done is None:
        complete(study, [config], device=device, dump=size, progress=progress)
        judge(study, [config], device)
        return dumps.read(study.results, config)
    begin(study, device=device, progress=progress)
    folder = study.results / "dumps" / config.key
    if study.pretrain:
        start = starts.file(folder, study.pretrain.key)
        start.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(starts.file(study.results, study.pretrain.key), start)
    place = {"data_root": study.data_root, "results": folder, "device": device}
    again = runs.make(config, **place, dump=size, progress=progress)
    if alike(done, again) and done["metrics"] != again["metrics"]:
        was, now = (record["metrics"]["classifier"]["last"]["accuracy"] for record in (done, again))
        raise UserError(
            f"{config.key}: trained again it does not give its record (last accuracy {now}, on record {was}), so its "
            f"dump is not kept; the new record and dump lie in {folder}"
        )
    if dumps.file(folder, config.key).exists():
        os.replace(dumps.file(folder, config.key), dumps.file(study.results, config.key))
    shutil.rmtree(folder)
    return dumps.read(study.results, config)


def alike(one: Mapping, other: Mapping) -> bool:
    """Whether two records were made by one code, on one kind of machine, from one start: they should be equal."""
    made = [
        [record["start"]["sha256"], record["provenance"]["versions"]["torch"]]
        + [record["provenance"].get(name) for name in ("device", "threads", "precision", "source")]
        for record in (one, other)
    ]
    return made[0] == made[1]


def ordered(wanted: Iterable[Run]) -> list[Run]:
    """Seed by seed in the order given, and cheap first within a seed, by counted operations."""
    wanted = list(wanted)
    seeds = list(dict.fromkeys((config.seed, config.split_seed) for config in wanted))
    return sorted(wanted, key=lambda config: (seeds.index((config.seed, config.split_seed)), cost.flops(config)))


def merge(target: Path, sources: Iterable[Path], *, again: bool = False) -> int:
    """Add to `target` the finished records of other machines, by key; return how many were new.

    Two records of one key may disagree in nothing but their provenance. With `again`, one of `sources` that does is a
    run made once more: it is kept, once, as an older record of its key. What a source shows of a key stays the shown
    one where `target` has none. Raises UserError, and adds nothing, for any other, and for a source that is not there.
    """
    sources = list(sources)
    if absent := [str(file) for file in sources if not file.is_file()]:
        raise UserError(f"{', '.join(absent)}: no such file; expected the records.jsonl that a sweep wrote")
    shown: dict[str, tuple[str, dict]] = {}
    known, new, older = set(), [], []
    for file in (target, *sources):
        numbered = enumerate(records.read(file), 1)
        found = [(f"{file}, record {number}", r) for number, r in numbered if r["status"] == "finished"]
        last = records.finished(record for _, record in found)
        for here, record in sorted(found, key=lambda one: one[1] is not last[one[1]["key"]]):
            content = files.canonical(record | {"provenance": None})
            if content in known:
                continue
            known.add(content)
            there, first = shown.setdefault(record["key"], (here, record))
            if file is target:
                continue
            if first is record:
                new.append(record)
                continue
            if not again:
                fields = sorted((first.keys() | record.keys()) - {"provenance"})
                differ = ", ".join(name for name in fields if first.get(name) != record.get(name))
                raise UserError(
                    f"{there} and {here}: {record['key']} differs in {differ}; keep one of them, or keep both with "
                    "--again"
                )
            older.append(record)
    records.add(target, new, older=older)
    return len(new)
