"""run(config) -> record: the only training loop. It knows no method by name.

All randomness is a function of (seed, stream, step), so a checkpoint needs no generator and no
sampler position but the step: a run killed anywhere and started again gives the same record.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from tqdm.auto import tqdm

from fercore import augment, checkpoint, dumps, metrics, paths, pretrain, records, setting, splits, starts, text
from fercore.config import Run
from fercore.encoders import ImageEncoder, Output
from fercore.errors import UserError
from fercore.fusion import fuse
from fercore.methods import Batch, Context, Step, budget, resolve, views
from fercore.optimisers import Adam
from fercore.randomness import batch_indices, generator

LAST = 5  # evaluations in the reported mean


class EMA:
    """Moving average of weights and of normalisation statistics, for evaluation only.

    decay_t = min(decay, (1 + t) / (10 + t)). The buffers are averaged like the weights: copied ones
    would describe the latest network and not the averaged one.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` after the step with this number, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values()))
        moving = [(a, b) for a, b in pairs if a.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in moving], [b for _, b in moving], 1 - decay)
        for average, current in pairs:
            if not average.is_floating_point():
                average.copy_(current)


class Tally:
    """Sums over the steps since the last evaluation, on the device; read once, then emptied.

    Hidden labels enter here and nowhere else.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}

    def add(self, step: Step, truth: Int64[Tensor, " m"] | None) -> None:
        """Count one step; `truth` are the hidden labels of its unlabelled batch."""
        values = {f"loss/{name}": value.detach() for name, value in step.losses.items()}
        values |= {"loss/total": step.total.detach(), "steps": torch.ones_like(step.total)}
        if step.target is not None:
            name, keep = step.target.argmax(1), step.keep
            right = name == truth
            kept = nn.functional.one_hot(name, step.target.shape[1]) * keep[:, None]
            values |= {"seen": torch.ones_like(right).sum(), "kept": keep.sum(), "counts": kept.sum(0)}
            values |= {"right": right.sum(), "right_kept": (right & keep).sum()}
            values |= {f"level/{level}": (p.argmax(1) == truth).sum() for level, p in step.levels.items()}
            if len(step.levels) > 1:
                values["level/fused"] = (fuse(step.levels).argmax(1) == truth).sum()
        for key, value in values.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value

    def read(self) -> dict:
        """Means since the last call: loss, kept fraction, pseudo-label accuracies, kept per class."""
        sums = {key: value.tolist() for key, value in self.sums.items()}
        self.sums = {}
        steps, seen = sums["steps"], sums.get("seen")
        out: dict = {"loss": {k[5:]: round(v / steps, 5) for k, v in sums.items() if k.startswith("loss/")}}
        if seen:
            kept = sums["kept"]
            out |= {
                "kept": round(kept / seen, 5),
                "pseudo_accuracy": round(sums["right"] / seen, 5),
                "pseudo_accuracy_kept": round(sums["right_kept"] / kept, 5) if kept else None,
                "level_accuracy": {k[6:]: round(v / seen, 5) for k, v in sums.items() if k.startswith("level/")},
                "pseudo_counts": sums["counts"],
            }
        return out


@dataclass
class Training:
    """A run that is set up: fixed inputs first, then everything that a checkpoint holds."""

    config: Run
    device: torch.device
    data: setting.Data
    split: splits.Split
    start: starts.Start
    images: UInt8[Tensor, "n c h w"]  # of the pool
    labels: Int64[Tensor, " n"]
    method: ModuleType
    options: object
    bf16: bool
    model: ImageEncoder
    ema: EMA
    optimiser: Adam
    state: nn.Module
    tally: Tally
    history: list[dict]
    best: dict[str, dict]  # evaluations: best on test, and chosen on validation
    dump: dumps.Unfinished | None = None
    step: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict:
        """Tensors and plain values that rebuild this object around the same inputs."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": self.state.state_dict(),
            "tally": self.tally.sums,
            "history": self.history,
            "best": self.best,
            "dump": self.dump.state_dict() if self.dump else None,
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state_dict(self, saved: dict) -> None:
        """The inverse of `state_dict`."""
        self.model.load_state_dict(saved["model"])
        self.ema.model.load_state_dict(saved["ema"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.state.load_state_dict(saved["state"])
        self.tally.sums = saved["tally"]
        self.history, self.best = saved["history"], saved["best"]
        if self.dump and saved.get("dump"):
            self.dump.load_state_dict(saved["dump"])
        self.step, self.seconds = saved["step"], saved["seconds"]


def set_up(config: Run, data_root: str | Path | None, results: Path, device: str) -> Training:
    """Load data, draw the split, build model and state. Raises UserError for bad input."""
    method, options = resolve(config.method, config.options)
    where = setting.device(device)
    data = setting.data(
        config.dataset,
        data_root,
        size=config.image_size,
        drop_duplicates=config.drop_duplicates,
        options=config.dataset_options,
    )
    classes = data.faces.classes
    split = splits.draw(
        data.faces.labels[data.pool],
        config.labels,
        config.split_seed,
        dataset=config.dataset,
        classes=classes,
        validation=config.validation,
        include_labelled=config.include_labelled,
    )
    if not len(split.unlabelled) and any(views(method, options).values()):
        raise UserError(f"{config.method}: with {config.labels} labels no face is left unlabelled")
    uses_text = getattr(method, "uses_text", lambda options: False)(options)
    table = text.table(config.text, config.prompt, classes).to(where) if uses_text else None
    bf16 = setting.bf16(config.precision, where)
    model = ImageEncoder(
        config.encoder,
        len(classes),
        text_width=None if table is None else table.shape[1],
        projection=getattr(options, "projection", 0) or None,
        unit=getattr(options, "unit", False),
        bf16=bf16,
        seed=config.seed,
    )
    start = begin(model, config, results)
    model.to(where).train()
    context = Context(
        classes=len(classes),
        slots=len(data.pool),
        labelled=torch.from_numpy(split.labelled),
        unlabelled=torch.from_numpy(split.unlabelled),
        feature=model.width,
        width=model.embedding_width,
        text=table,
        seed=config.seed,
    )
    state = (method.state(context, options) if hasattr(method, "state") else nn.Module()).to(where)
    return Training(
        config=config,
        device=where,
        data=data,
        split=split,
        start=start,
        images=setting.resident(data.faces.images, where),
        labels=torch.from_numpy(data.faces.labels),
        method=method,
        options=options,
        bf16=bf16,
        model=model,
        ema=EMA(model, config.ema),
        optimiser=Adam([*model.parameters(), *state.parameters()], lr=config.lr),
        state=state,
        tally=Tally(),
        history=[],
        best={},
    )


def begin(model: ImageEncoder, config: Run, results: Path) -> starts.Start:
    """Give the backbone its start. Raises UserError for weights that are missing or do not fit."""
    kind, _, name = config.start.partition(":")
    if kind == "none":
        return starts.Start("none", None, 0.0)
    if kind == "imagenet":
        matched = starts.load(model.backbone, starts.imagenet(config.encoder), {}, "start: imagenet")
        return starts.Start("imagenet", None, round(matched, 4))
    if kind not in ("file", "pretrain") or not name:
        raise UserError(f"start: {config.start!r} is unknown; use none, imagenet, file:PATH or pretrain:KEY")
    path = Path(name).expanduser() if kind == "file" else pretrain.file(results, name)
    if kind == "file" and not path.exists():
        path = paths.ROOT / path  # a profile's paths are relative to the repository, wherever it is run from
    if kind == "pretrain" and not path.exists():
        raise UserError(f"{path}: this start is missing; `python -m fercore reproduce` or `pretrain` makes it")
    matched = starts.load(model.backbone, starts.tensors(path), config.start_keys, str(path))
    return starts.Start(kind, starts.sha256(path), round(matched, 4), name if kind == "pretrain" else None)


def make_batch(run: Training, step: int) -> tuple[Batch, Int64[Tensor, " m"] | None]:
    """Views of step number `step`, and the hidden labels of its unlabelled faces (for the tally alone)."""
    config, pool = run.config, torch.from_numpy(run.data.pool)
    slots = batch_indices(torch.from_numpy(run.split.labelled), config.batch, step, config.seed, "labelled")
    faces, labels = gather(run, pool[slots])
    labelled = augment.weak(faces, config.image_size, generator(config.seed, "labelled views", step))
    weak: tuple = ()
    strong: tuple = ()
    hidden, others = None, slots[:0]
    asked = views(run.method, run.options)
    if any(asked.values()):
        unlabelled = torch.from_numpy(run.split.unlabelled)
        others = batch_indices(unlabelled, config.unlabelled_batch, step, config.seed, "unlabelled")
        faces, hidden = gather(run, pool[others])
        weak, strong = (
            tuple(
                view(faces, config.image_size, generator(config.seed, f"{name} {i}", step))
                for i in range(asked[name])
            )
            for name, view in (("weak", augment.weak), ("strong", augment.strong))
        )
    progress = torch.tensor(step / config.steps)
    slots, others, progress = (augment.send(values, run.device) for values in (slots, others, progress))
    draws = generator(config.seed, "method", step)
    return Batch(labelled, labels, slots, weak, strong, others, progress, draws), hidden


def gather(run: Training, rows: Int64[Tensor, " b"]) -> tuple[UInt8[Tensor, "b c h w"], Int64[Tensor, " b"]]:
    """Faces and labels of these rows, on the device."""
    return setting.take(run.images, rows, run.device), augment.send(run.labels[rows], run.device)


def with_labels(run: Training, hook: str, *more: object) -> None:
    """Call the method's `hook`, if it has one: it may look at the labelled faces through the averaged model."""
    if not hasattr(run.method, hook):
        return
    slots = torch.from_numpy(run.split.labelled)
    rows = torch.from_numpy(run.data.pool)[slots]

    @torch.no_grad()
    def encode() -> Output:
        images = (setting.take(run.images, part, run.device) for part in rows.split(256))
        parts = [run.ema.model(augment.centre(x, run.config.image_size)) for x in images]
        return Output(*(torch.cat(field) for field in zip(*parts)))

    getattr(run.method, hook)(encode, slots.to(run.device), run.labels[rows].to(run.device), run.state, *more)


def prepare(run: Training) -> None:
    """Before the first step."""
    with_labels(run, "prepare")


def refresh(run: Training) -> None:
    """After each of the method's epochs, where it counts in them."""
    if run.step in evenly(run.config.steps, getattr(run.options, "epochs", 0)):
        with_labels(run, "refresh", run.options)


def evenly(steps: int, times: int) -> set[int]:
    """So many of the numbers 1 ... steps, evenly spaced, the last at the end."""
    return {round(steps * (i + 1) / times) for i in range(times)} - {0}


def rate(config: Run, step: int) -> float:
    """Learning rate: constant, or FixMatch's cosine, lr cos(7 pi t / 16 T), which ends at 0.195 lr."""
    if config.schedule == "constant":
        return config.lr
    return config.lr * math.cos(7 * math.pi * step / (16 * config.steps))


def train_step(run: Training, step: int) -> None:
    """One optimiser step. On a GPU nothing in it waits for the device."""
    batch, hidden = make_batch(run, step)
    # The outer context changes no precision: it lets the step's forward passes share their bf16 weights.
    with torch.autocast(run.device.type, enabled=False):
        result = run.method.step(run.model, batch, run.state, run.options)
    result.total.backward()
    run.optimiser.step(rate(run.config, step))
    run.ema.update(run.model, step)
    run.tally.add(result, hidden)


@torch.inference_mode()
def evaluate(run: Training, rows: np.ndarray) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"] | None]:
    """Class probabilities of the averaged model for these rows of the data set: classifier, and fused levels."""
    model, size = run.ema.model, run.config.image_size
    weights = run.method.fusion(run.options) if hasattr(run.method, "fusion") else None
    alone, fused = [], []
    for part in torch.from_numpy(rows).split(256):
        output = model(augment.centre(setting.take(run.images, part, run.device), size))
        alone.append(output.logits.softmax(1))
        if hasattr(run.method, "levels"):
            fused.append(fuse(run.method.levels(model, output, run.state, run.options), weights))
    return torch.cat(alone), torch.cat(fused) if fused else None


@torch.inference_mode()
def levels(run: Training, rows: Int64[Tensor, " n"]) -> dict[str, Float[Tensor, "n k"]]:
    """What each level of the averaged model says of these rows; the classifier alone where the method has no levels."""
    said: dict[str, list[Tensor]] = {}
    for part in rows.split(256):
        output = run.ema.model(augment.centre(setting.take(run.images, part, run.device), run.config.image_size))
        p = {"semantic": output.logits.softmax(1)}
        if hasattr(run.method, "levels"):
            p = run.method.levels(run.ema.model, output, run.state, run.options)
        for name, level in p.items():
            said.setdefault(name, []).append(level)
    return {name: torch.cat(parts) for name, parts in said.items()}


def log_evaluation(run: Training) -> None:
    """Append one entry to the history and keep the evaluations that are reported in full."""
    entry = {"step": run.step, **run.tally.read()}
    if memory := getattr(run.state, "memory", None):
        entry["memory"] = int(memory.valid.sum())
    held_out = run.data.pool[run.split.validation]
    chosen_by = None
    if len(held_out):
        p, _ = evaluate(run, held_out)
        validation = metrics.evaluation(p, run.labels[held_out].to(run.device), run.step)
        entry["validation"] = {k: validation[k] for k in ("accuracy", "macro_f1", "ece")}
        chosen_by = validation["accuracy"]
    truth = run.labels[run.data.test].to(run.device)
    for head, p in zip(("classifier", "fused"), evaluate(run, run.data.test)):
        if p is None:
            entry[head] = None
            continue
        full = metrics.evaluation(p, truth, run.step)
        entry[head] = {k: full[k] for k in ("accuracy", "macro_f1", "ece")}
        kept = run.best.setdefault(head, {"last": full, "best_on_test": full, "selected": None, "chosen_by": -1.0})
        kept["last"] = full
        if full["accuracy"] > kept["best_on_test"]["accuracy"]:
            kept["best_on_test"] = full
        if chosen_by is not None and chosen_by > kept["chosen_by"]:
            kept["selected"], kept["chosen_by"] = full, chosen_by
    run.history.append(entry)
    if run.dump and run.step in run.dump.steps:
        run.dump.add(run.step, levels(run, run.dump.rows))


def summary(run: Training) -> dict:
    """Metrics of the record: per head, last, mean of the last five, validation-selected, best on test."""
    out: dict = {"fused": None}
    for head, kept in run.best.items():
        last = [entry[head] for entry in run.history[-LAST:]]
        mean = {k: round(sum(e[k] for e in last) / len(last), 5) for k in ("accuracy", "macro_f1", "ece")}
        out[head] = {k: kept[k] for k in ("last", "selected", "best_on_test")} | {"mean_last5": mean}
    return out


def run(
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
    """Train, and return the record; it is appended to `results`/records.jsonl when the run is finished.

    With `keep_weights` the averaged model and the method's state stay in `results`/weights/KEY.pt. With `dump`, what
    the levels say of so many unlabelled faces stays in `results`/dumps (dumps.py); it changes nothing of the training.
    `watch` is told how many steps are done, after each.

    A run whose key is already there is not trained again. An interrupted one goes on from its last
    checkpoint and ends in the same record (provenance apart). Raises UserError for bad input.
    """
    config = replace(config, labels=budget(config.method, config.labels))
    if done := records.finished(records.read(results / "records.jsonl")).get(config.key):
        return done
    training = set_up(config, data_root, results, device)
    evaluated = evenly(config.steps, config.evaluations)
    unlabelled = torch.from_numpy(training.data.pool[training.split.unlabelled])
    training.dump = dumps.begin(unlabelled, dump, config.split_seed, evaluated)
    saved = results / "checkpoints" / f"{config.key}.pt"
    if state := checkpoint.load(saved, training.device):
        training.load_state_dict(state)
    else:
        prepare(training)
    if config.compile:
        training.model.compile()  # in place: joint forwards go through it as well
    before, started = training.seconds, time.perf_counter()
    steps = range(training.step, config.steps)
    name = f"{config.method} {config.dataset}/{config.labels} seed {config.seed}"
    with tqdm(steps, initial=training.step, total=config.steps, desc=name, disable=not progress) as bar:
        for step in bar:
            train_step(training, step)
            training.step = step + 1
            refresh(training)
            if training.step in evaluated:
                log_evaluation(training)
                bar.set_postfix(accuracy=f"{training.history[-1]['classifier']['accuracy']:.3f}")
            if training.step % checkpoint_every == 0 or training.step == config.steps:
                training.seconds = before + time.perf_counter() - started
                checkpoint.save(saved, training.state_dict())
            if watch:
                watch(training.step)
    record = {
        "key": config.key,
        "kind": "run",
        "status": "finished",
        "config": config.to_dict(),
        "constants": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(training.options).items()},
        "data": training.data.summary(),
        "split": {
            "hash": training.split.hash,
            "labelled": training.data.pool[training.split.labelled].tolist(),
            "validation": training.data.pool[training.split.validation].tolist(),
            "unlabelled": len(training.split.unlabelled),
            "counts": [int(c) for c in training.split.counts],
        },
        "start": vars(training.start),
        "metrics": summary(training),
        "history": training.history,
        "provenance": records.provenance(
            training.device, "bf16" if training.bf16 else "fp32", training.seconds, config.steps
        ),
    }
    if keep_weights:
        kept = {"model": training.ema.model.state_dict(), "state": training.state.state_dict()}
        checkpoint.save(results / "weights" / f"{config.key}.pt", kept)
    if training.dump and training.dump.whole:
        dumps.write(results, training.dump, record, training.labels[training.dump.rows])
    records.append(results / "records.jsonl", record)
    saved.unlink(missing_ok=True)
    return record
