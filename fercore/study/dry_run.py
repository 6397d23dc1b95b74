"""The price of a study: `python -m fercore reproduce PARAMS --dry-run`. Needs no data, no weights and no training."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch

from fercore import encoders, paths
from fercore.config import Run
from fercore.methods import resolve
from fercore.methods.api import Context
from fercore.study import cost, plan, profiles, records, starts, sweep
from fercore.study.cost import CLASSES
from fercore.text import CONTROL_WIDTH
from fercore.training import devices

NATIVE = {"fer2013": (1, 48, 48), "rafdb": (3, 100, 100), "sfew": (3, 181, 143)}  # decoded; others at the run's size
# Bytes of a record, measured on results/fer2013: all but history and labelled faces; of an evaluation; of a face.
RECORD, EVALUATION, FACE = 2_500, 300, 6


def at_hand(study: profiles.Profile) -> list[dict]:
    """Every record of this checkout and of the study's own folder."""
    files = {*paths.RESULTS.glob("*/records.jsonl"), study.records}
    return [record for file in sorted(files) for record in records.read(file)]


# Disk


def model_bytes(config: Run) -> int:
    """Of the network with its heads, in fp32."""
    with torch.device("meta"):
        return _bytes(_model(config))


def state_bytes(config: Run) -> int:
    """Of what the method remembers, where the number of training faces is known; else of its labelled ones."""
    method, options = resolve(config.method, config.options)
    if not hasattr(method, "state"):
        return 0
    known = cost.faces(config.dataset, config.dataset_options)
    slots = known[0] if known else max(config.labels, CLASSES)
    labelled = torch.arange(min(config.labels or slots, slots))
    with torch.device("meta"):
        model, text = _model(config), torch.empty(CLASSES, CONTROL_WIDTH)
        width = model.embedding_width
        context = Context(CLASSES, slots, labelled, torch.arange(slots), model.width, width, text, config.seed, model)
        return _bytes(method.state(context, options))


def _model(config: Run) -> encoders.ImageEncoder:
    options = resolve(config.method, config.options)[1]
    return encoders.ImageEncoder(config.encoder, CLASSES, projection=getattr(options, "projection", 0) or None)


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def weights_bytes(config: Run) -> int:
    """Of what `--keep-weights` leaves of a run: the averaged model and the method's state."""
    return model_bytes(config) + state_bytes(config)


def checkpoint_bytes(config: Run) -> int:
    """Of a run that is under way: model, average, two moments, and the method's state."""
    return 4 * model_bytes(config) + state_bytes(config)


def record_bytes(config: Run) -> int:
    """Of a run's line in records.jsonl."""
    labelled = config.labels or (cost.faces(config.dataset, config.dataset_options) or (0, 0))[0]
    return RECORD + EVALUATION * config.evaluations + FACE * labelled


# The report


def hours(seconds: float) -> str:
    """Seconds as hours, or as minutes below one hour."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def size(count: int | float) -> str:
    """Bytes as kB, MB or GB."""
    unit, divisor = next(((u, d) for u, d in (("GB", 1e9), ("MB", 1e6)) if count >= d), ("kB", 1e3))
    return f"{count / divisor:,.1f} {unit}"


def report(study: profiles.Profile, notebooks: Iterable[str], device: torch.device) -> Iterator[str]:
    """Lines of `python -m fercore reproduce PARAMS --dry-run`."""
    notebooks = list(notebooks)
    runs, known = plan.runs(study, *notebooks), at_hand(study)
    missing = sweep.missing(study, runs)
    time = cost.clock(study.runs()[0], device, known)
    spent = {config.key: time.seconds(config) for config in missing}
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    yield f"{study.name}: {len(missing)} of {len(runs)} runs are missing; nothing is trained now"
    yield f"device: {devices.name(device)}{threads}, {time.precision}"
    yield ""
    yield f"{'method':<18} {'labels':>7} {'runs':>5}  {'images a step':>14}  {'a run':>10}  {'together':>10}  from"
    for (method, labels), row in _rows(runs, missing).items():
        seconds, measured = spent[row[0].key]
        step = cost.images(row[0])
        yield (
            f"{method:<18} {labels or 'all':>7} {len(row):>5}  {step.trained:>6} + {step.guessed:<5}  "
            f"{hours(seconds):>10}  {hours(seconds * len(row)):>10}  {'records' if measured else 'operations'}"
        )
    total = partial(sum, start=0.0)
    first = _start_seconds(study, time, known)
    if first:
        yield f"{'start: ' + str(study.pretrain.steps) + ' steps of SimCLR':<52} {hours(first):>10}"
    everything = first + total(seconds for seconds, _ in spent.values())
    yield f"{'in all, one run after another':<52} {'':>7}{hours(everything):>10}"
    yield ""
    yield "images a step: with gradient + without. records: measured steps of this device, method, image size, encoder"
    yield f"operations: counted, at {time.rate / 1e9:,.1f} GFLOP/s, {time.source}"
    if cost.faces(study.dataset, study.shared.get("dataset_options", {})) is None:
        yield f"{study.dataset}: how many faces it has is not known here: evaluations and memories are not counted"
    yield ""
    yield "notebook: the missing runs that it asks for (a run is made once, whichever notebooks share it)"
    for name in notebooks:
        wanted = [config for config in plan.of_notebook(study, name) if config.key in spent]
        yield f"  {name:<36} {len(wanted):>5} runs  {hours(total(spent[c.key][0] for c in wanted)):>10}"
    yield ""
    yield from _disk(study, missing)


def _rows(runs: Iterable[Run], missing: Iterable[Run]) -> dict[tuple[str, int], list[Run]]:
    """What is missing of each method and budget, in the order of the grid."""
    rows: dict[tuple[str, int], list[Run]] = {(config.method, config.labels): [] for config in runs}
    for config in missing:
        rows[config.method, config.labels].append(config)
    return {row: found for row, found in rows.items() if found}


def _start_seconds(study: profiles.Profile, time: cost.Clock, known: Iterable[Mapping]) -> float:
    """Of the start, where the study makes its own and it is not there yet."""
    first = study.pretrain
    if first is None or starts.file(study.results, first.key).exists():
        return 0.0
    for r in known:
        if r["key"] == first.key and r["provenance"]["device"] == devices.name(time.device):
            return r["provenance"]["seconds"]
    return first.steps * 2 * first.batch * cost.operations(first.encoder, first.image_size).trained / time.rate


def _disk(study: profiles.Profile, missing: list[Run]) -> Iterator[str]:
    """Lines on what lies on the disk, in the end or for a while."""
    if not missing:
        return
    one = missing[0]
    yield f"disk: {study.results}"
    if study.pretrain:
        backbone = encoders.backbone(one.encoder)[0]
        yield f"  start        {size(_bytes(backbone)):>10}  made by the study"
    elif study.start.startswith("file:"):
        yield f"  start        {'yours':>10}  {study.start[5:]}: {_there(study.start[5:])}"
    yield f"  records      {size(sum(map(record_bytes, missing))):>10}"
    yield f"  checkpoint   {size(max(map(checkpoint_bytes, missing))):>10}  at most, for each run under way; it goes"
    yield f"  weights      {size(sum(map(weights_bytes, missing))):>10}  with --keep-weights only"
    if known := cost.faces(study.dataset, one.dataset_options):
        c, h, w = NATIVE.get(study.dataset, (3, one.image_size, one.image_size))
        yield f"  faces        {size(sum(known) * c * h * w):>10}  decoded, in {paths.cache()}; shared by all studies"


def _there(name: str) -> str:
    return "there" if any(path.is_file() for path in (Path(name).expanduser(), paths.ROOT / name)) else "not there yet"
