"""Profiles: one YAML in params/ for each study.

Its lists (labels, seeds, methods) span a grid; everything else is shared by all its runs.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short

from fercore import methods as methods_
from fercore import paths, strict
from fercore.config import WORDS, Run, typed
from fercore.data import NAMES
from fercore.errors import UserError
from fercore.training import loop
from fercore.training.simclr import Pretrain

GRID = {"labels": int, "seeds": int, "split_seeds": int, "methods": str}
OTHER = {"profile", "data_root", "notebooks", "points", "start", "dataset", "unlabelled"}
NOT_SHARED = {"labels", "seed", "split_seed", "method", "source", "start", "start_keys"}
NAME = re.compile(r"\w[\w.-]{0,99}")  # of a folder or a notebook
SHARED = {f.name for f in dataclasses.fields(Run)} - NOT_SHARED


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
                source=methods_.source(method),
                **self.shared,
            )
            for seed, split_seed in zip(self.seeds, self.split_seeds)
            for budget in (self.labels if labels is None else labels)
            for method in (self.methods if methods is None else methods)
        ]
        return list({config.key: config for config in runs}.values())


def committed() -> list[Path]:
    """The committed profiles: every YAML of params/ but the published numbers and the audit."""
    return sorted(path for path in paths.PARAMS.glob("*.yaml") if path.stem not in ("claims", "audit"))


def load(name: str | Path, *, data_root: str | Path = "", results: str | Path = "") -> Profile:
    """Read params/NAME.yaml, or the YAML at this path. Raises UserError for unknown keys and wrong values.

    `data_root` stands before the environment variable FERCORE_DATA and both before the YAML's own,
    which is relative to the repository.
    """
    file = Path(name) if str(name).endswith((".yaml", ".yml")) else paths.PARAMS / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(path.stem for path in committed())
        raise UserError(f"{file}: no such profile; there are {known}, or give the path of a YAML")
    values = strict.load(file)
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
            raise UserError(f"{file}: {key}: expected a list, each entry {WORDS[GRID[key]]}, got {short(given)}")
    if values["dataset"] not in NAMES:
        raise UserError(f"{file}: dataset: {short(values['dataset'])} is unknown; known are {', '.join(NAMES)}")
    notebooks = values.get("notebooks") or {}
    if not isinstance(notebooks, dict) or not all(isinstance(extra or {}, dict) for extra in notebooks.values()):
        raise UserError(f"{file}: notebooks: expected name: {{parameter: value}}, got {short(notebooks)}")
    for key, name in (("profile", values.get("profile", "a")), *(("notebooks", str(name)) for name in notebooks)):
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise UserError(f"{file}: {key}: expected a name of letters, digits, - and _, no path, got {short(name)}")
    around = values.get("points") or {}
    if not isinstance(around, dict) or set(around) - {"labels", "seeds"}:
        raise UserError(f"{file}: points: expected labels and seeds, each a list, got {short(around)}")
    for key, given in around.items():
        if not isinstance(given, list) or not given or any(value not in values[key] for value in given):
            raise UserError(f"{file}: points: {key}: expected some of {values[key]}, got {short(given)}")
    try:
        shared = typed(Run, {key: values[key] for key in SHARED & set(values) - {"dataset"}})
        start, keys, first = _start(values, shared, file)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if (more := values.get("unlabelled")) is not None:
        if not isinstance(more, str):
            raise UserError(f"{file}: unlabelled: expected the path of a folder, got {more!r}")
        shared["dataset_options"] = shared.get("dataset_options", {}) | {"unlabelled": more}
    split_seeds = values.get("split_seeds", values["seeds"])
    if len(split_seeds) != len(values["seeds"]):
        raise UserError(f"{file}: split_seeds: needs one value for each of seeds, or to be left out")
    if not isinstance(values.get("data_root") or "", str):
        raise UserError(f"{file}: data_root: expected a folder, got {short(values['data_root'])}")
    profile = values.get("profile", file.stem)
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
            loop.check(config)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return study


def _start(values: dict, shared: dict, file: Path) -> tuple[str, dict, Pretrain | None]:
    """The YAML's `start`: none, imagenet, {file: PATH, keys: {...}} or {pretrain: {steps: ..., ...}}."""
    start = values.get("start", "none")
    if start in ("none", "imagenet"):
        return start, {}, None
    if isinstance(start, dict) and isinstance(start.get("file"), str) and set(start) <= {"file", "keys"}:
        return f"file:{start['file']}", typed(Run, {"start_keys": start.get("keys") or {}})["start_keys"], None
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
        if first.encoder != (wanted := shared.get("encoder", Run.encoder)):
            raise UserError(f"{file}: start: pretrain: encoder: {first.encoder!r}; that of the runs is {wanted!r}")
        return f"pretrain:{first.key}", {}, first
    raise UserError(f"{file}: start: expected none, imagenet, {{file: PATH}} or {{pretrain: {{steps: N}}}}")
