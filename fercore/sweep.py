"""A profile's runs: which are missing, and making them.

A profile is one YAML in params/. Its lists (labels, seeds, methods) span a grid; everything else is
shared by all its runs. A run whose key is in the records is never trained again.
"""

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from fercore import expressions, paths, pretrain, records, text, train, workers
from fercore import methods as methods_
from fercore.config import WORDS, Run, typed
from fercore.datasets import NAMES
from fercore.errors import UserError
from fercore.pretrain import Pretrain

GRID = {"labels": int, "seeds": int, "split_seeds": int, "methods": str}
OTHER = {"profile", "data_root", "notebooks", "points", "start", "dataset"}
SHARED = {f.name for f in dataclasses.fields(Run)} - {"labels", "seed", "split_seed", "method", "start", "start_keys"}


@dataclass(frozen=True)
class Profile:
    """A study: its grid of runs, where its data lie, and where its results go."""

    name: str
    dataset: str
    data_root: Path | None
    results: Path
    labels: list[int]
    seeds: list[int]
    split_seeds: list[int]
    methods: list[str]
    shared: dict  # of Run, equal for every run
    start: str = "none"
    start_keys: dict = field(default_factory=dict)
    pretrain: Pretrain | None = None
    notebooks: dict[str, dict] = field(default_factory=dict)
    points: dict[str, list[int]] = field(default_factory=dict)  # labels and seeds of plan.py's points

    @property
    def records(self) -> Path:
        """The file of records."""
        return self.results / "records.jsonl"

    @property
    def again(self) -> Path:
        """The file of runs that were made once more: partners of one start, and what pages/again.py shows."""
        return records.beside(self.records)

    def runs(self, methods: Iterable[str] | None = None, labels: Iterable[int] | None = None) -> list[Run]:
        """The grid, seeds outermost: an interrupted sweep has whole tables of few seeds.

        A method that ignores the budget has one run for each seed.
        """
        runs = [
            Run(
                dataset=self.dataset,
                method=method,
                labels=methods_.budget(method, budget),
                seed=seed,
                split_seed=split_seed,
                start=self.start,
                start_keys=self.start_keys,
                **self.shared,
            )
            for seed, split_seed in zip(self.seeds, self.split_seeds)
            for budget in (self.labels if labels is None else labels)
            for method in (self.methods if methods is None else methods)
        ]
        return list({config.key: config for config in runs}.values())


def profiles() -> list[Path]:
    """The committed profiles: every YAML of params/ but the published numbers and the audit."""
    return sorted(path for path in paths.PARAMS.glob("*.yaml") if path.stem not in ("claims", "audit"))


def load_profile(name: str | Path, *, data_root: str | Path = "", results: str | Path = "") -> Profile:
    """Read params/NAME.yaml, or the YAML at this path. Raises UserError for unknown keys and wrong values.

    `data_root` stands before the environment variable FERCORE_DATA and both before the YAML's own,
    which is relative to the repository.
    """
    file = Path(name) if str(name).endswith((".yaml", ".yml")) else paths.PARAMS / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(path.stem for path in profiles())
        raise UserError(f"{file}: no such profile; there are {known}, or give the path of a YAML")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: expected keys and values, e.g. dataset: fer2013")
    if unknown := sorted(map(str, set(values) - set(GRID) - OTHER - SHARED)):
        known = ", ".join(sorted(set(GRID) | OTHER | SHARED))
        raise UserError(f"{file}: unknown key {', '.join(unknown)}; known are {known}")
    if missing := sorted({"dataset", "labels", "seeds", "methods", "steps"} - set(values)):
        raise UserError(f"{file}: missing key {', '.join(missing)}")
    for key in GRID.keys() & values:
        given = values[key]
        if not isinstance(given, list) or not given or any(type(v) is not GRID[key] for v in given):
            raise UserError(f"{file}: {key}: expected a list, each entry {WORDS[GRID[key]]}, got {given!r}")
    if values["dataset"] not in NAMES:
        raise UserError(f"{file}: dataset: {values['dataset']!r} is unknown; known are {', '.join(NAMES)}")
    notebooks = values.get("notebooks") or {}
    if not isinstance(notebooks, dict) or not all(isinstance(extra or {}, dict) for extra in notebooks.values()):
        raise UserError(f"{file}: notebooks: expected name: {{parameter: value}}, got {notebooks!r}")
    around = values.get("points") or {}
    if not isinstance(around, dict) or set(around) - {"labels", "seeds"}:
        raise UserError(f"{file}: points: expected labels and seeds, each a list, got {around!r}")
    for key, given in around.items():
        if not isinstance(given, list) or not given or any(value not in values[key] for value in given):
            raise UserError(f"{file}: points: {key}: expected some of {values[key]}, got {given!r}")
    try:
        shared = typed(Run, {key: values[key] for key in SHARED & set(values) - {"dataset"}})
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    split_seeds = values.get("split_seeds", values["seeds"])
    if len(split_seeds) != len(values["seeds"]):
        raise UserError(f"{file}: split_seeds: needs one value for each of seeds, or to be left out")
    profile = str(values.get("profile", file.stem))
    start, keys, first = _start(values, shared, file)
    root = data_root or os.environ.get("FERCORE_DATA") or values.get("data_root")
    study = Profile(
        name=profile,
        dataset=values["dataset"],
        data_root=paths.ROOT / Path(str(root)).expanduser() if root else None,
        results=Path(results) if results else paths.results(profile),
        labels=values["labels"],
        seeds=values["seeds"],
        split_seeds=split_seeds,
        methods=values["methods"],
        shared=shared,
        start=start,
        start_keys=keys,
        pretrain=first,
        notebooks={str(notebook): extra or {} for notebook, extra in notebooks.items()},
        points=around,
    )
    try:
        for config in study.runs():
            train.resolve(config.method, config.options)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return study


def _start(values: dict, shared: dict, file: Path) -> tuple[str, dict, Pretrain | None]:
    """The YAML's `start`: none, imagenet, {file: PATH, keys: {...}} or {pretrain: {steps: ..., ...}}."""
    start = values.get("start", "none")
    if start in ("none", "imagenet"):
        return start, {}, None
    if isinstance(start, dict) and "file" in start and set(start) <= {"file", "keys"}:
        return f"file:{start['file']}", start.get("keys") or {}, None
    if isinstance(start, dict) and set(start) == {"pretrain"} and isinstance(start["pretrain"], dict):
        same = {k: shared[k] for k in ("encoder", "dataset_options", "drop_duplicates") if k in shared}
        same["image_size"] = shared.get("image_size", Run.image_size)
        known = {f.name for f in dataclasses.fields(Pretrain)}
        if unknown := sorted(map(str, set(start["pretrain"]) - known)):
            raise UserError(f"{file}: start: pretrain: unknown key {', '.join(unknown)}")
        if missing := sorted({"steps"} - set(start["pretrain"])):
            raise UserError(f"{file}: start: pretrain: missing key {', '.join(missing)}")
        try:
            first = Pretrain(**typed(Pretrain, {"dataset": values["dataset"], **same, **start["pretrain"]}))
        except UserError as error:
            raise UserError(f"{file}: start: pretrain: {error}") from None
        return f"pretrain:{first.key}", {}, first
    raise UserError(f"{file}: start: expected none, imagenet, {{file: PATH}} or {{pretrain: {{steps: N}}}}")


def missing(study: Profile, runs: Iterable[Run] | None = None) -> list[Run]:
    """The runs of the grid that have no finished record."""
    done = records.finished(records.read(study.records))
    return [config for config in (study.runs() if runs is None else runs) if config.key not in done]


def ready(study: Profile) -> bool:
    """Whether the data are at hand: rendered faces always are."""
    return study.dataset == "facs" or (study.data_root is not None and study.data_root.exists())


def complete(
    study: Profile,
    runs: Iterable[Run] | None = None,
    *,
    device: str = "auto",
    keep_weights: bool = False,
    dump: int = 0,
    processes: int = 1,
    progress: bool = True,
) -> list[dict]:
    """Make what is missing, the start first, and return all records of the profile.

    With `keep_weights` and `dump`, what is made leaves its weights and its dump; what has its record does not.
    Several processes share the device and take the runs one after another.

    Without the data nothing is trained: the committed records are returned, and a table shows the
    rest as "not run"; so it does with a run whose text encoder is not the profile's own and not at hand. A run that
    fails leaves a record with its error and does not stop the others; bad input (UserError) and Ctrl-C do. Both leave
    every finished run on disk.
    """
    todo = ordered(missing(study, runs))
    for config in todo:
        train.resolve(config.method, config.options)  # a wrong name is said before hours of pre-training
    if todo and ready(study):
        todo = [config for config in todo if config.text == study.shared.get("text", Run.text) or at_hand(config.text)]
    if not todo or not ready(study):
        return records.with_again(study.records)
    begin(study, device=device, progress=progress)
    place = {"data_root": study.data_root, "results": study.results, "device": device}
    place |= {"keep_weights": keep_weights, "dump": dump}
    workers.make(study.name, todo, place, processes=processes, progress=progress)
    return records.with_again(study.records)


@cache
def at_hand(encoder: str) -> bool:
    """Whether this text encoder's vectors can be had here, from the cache, from its weights or from a network."""
    try:
        return text.table(encoder, Run.prompt, expressions.EXPRESSIONS) is not None
    except UserError:
        return False


def begin(study: Profile, *, device: str = "auto", progress: bool = True) -> None:
    """Make the start that the profile's runs share, where it is missing."""
    if not study.pretrain or (weights := pretrain.file(study.results, study.pretrain.key)).exists():
        return
    place = {"data_root": study.data_root, "results": study.results, "device": device}
    with workers.claim(study.results, study.pretrain.key):
        if not weights.exists():  # by now: another sweep may have made it
            pretrain.run(study.pretrain, **place, progress=progress)


def ordered(runs: Iterable[Run]) -> list[Run]:
    """Seed by seed in the order given, and cheap first within a seed, by counted operations."""
    runs = list(runs)
    seeds = list(dict.fromkeys((config.seed, config.split_seed) for config in runs))
    return sorted(runs, key=lambda config: (seeds.index((config.seed, config.split_seed)), workers.price(config)))


def merge(target: Path, sources: Iterable[Path], *, again: bool = False) -> int:
    """Add to `target` the finished records of other machines, by key; return how many were new.

    Two records of one key may disagree in nothing but their provenance. With `again`, one of `sources` that does is a
    run made once more: it goes to `records.beside(target)`, once. Raises UserError, and adds nothing, for any other,
    and for a source that is not there.
    """
    sources = list(sources)
    if absent := [str(file) for file in sources if not file.is_file()]:
        raise UserError(f"{', '.join(absent)}: no such file; expected the records.jsonl that a sweep wrote")
    seen: dict[str, tuple[str, dict]] = {}
    have = records.finished(records.read(target))
    repeats, known = [], {records.canonical(record) for record in records.read(records.beside(target))}
    for file in (target, *sources):
        for number, record in enumerate(records.read(file), 1):
            if record["status"] != "finished":
                continue
            here = f"{file}, record {number}"
            there, first = seen.setdefault(record["key"], (here, record))
            fields = sorted((first.keys() | record.keys()) - {"provenance"})
            differ = [name for name in fields if first.get(name) != record.get(name)]
            if differ and again and file != target:
                repeats.append(record)
            elif differ:
                raise UserError(
                    f"{there} and {here}: {record['key']} differs in {', '.join(differ)}; keep one of them, or "
                    "keep both with --again"
                )
    new = [record for key, (_, record) in seen.items() if key not in have]
    for record in new:
        records.append(target, record)
    for record in repeats:
        if (line := records.canonical(record)) not in known:
            records.append(records.beside(target), record)
            known.add(line)
    return len(new)
