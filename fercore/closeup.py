"""One step of SIT-FER, kept for looking at.

A short training on rendered faces, then everything that the next step is computed from: features and logits of its
faces, the memory, the prompt table. It is stored once, because a training differs in the last digits between machines;
whoever reads the file computes the levels, the fusion and the losses from it, and finds the same numbers everywhere.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fercore import augment, records, train
from fercore.config import Run
from fercore.fusion import fuse
from fercore.randomness import generator

CANDIDATES = 64  # unlabelled faces from which the shown ones are picked


@dataclass(frozen=True)
class Closeup:
    """What one step starts from. `losses` [s] is the total loss of every training step before it.

    `tensors`: labels [b]; labelled_logits [b, k], labelled_text [b, t], labelled_embedding [b, e]; of m unlabelled
    faces their rows in the data set [m], truth [m] (hidden from the method), weak_logits, weak_text, weak_embedding,
    strong_logits; memory [n, e] with memory_labels [n]; the prompt table text [k, t]; the alignment's means [w, k].
    """

    config: Mapping
    classes: tuple[str, ...]
    losses: Tensor
    tensors: dict[str, Tensor]


def settings(steps: int = 300, **changes) -> Run:
    """The training that precedes the step: small enough for seconds on one core."""
    options = {"n": 700, "test": 70}
    values = {"dataset": "facs", "method": "sitfer", "labels": 70, "steps": steps, "evaluations": 1, "image_size": 48}
    values |= {"dataset_options": options, "text": "minilm", "lr": 1e-3, "ema": 0.0, "precision": "fp32"}
    return Run(**values | changes)


def complete(folder: Path, config: Run, *, shown: int = 8, progress: bool = True) -> Closeup:
    """The step stored in `folder`/one_step.npz; made and stored when it is missing or was made otherwise."""
    path = Path(folder) / "one_step.npz"
    if (stored := read(path)) is None or stored.config != config.to_dict():
        write(path, make(config, shown, progress))
        stored = read(path)
        assert stored is not None
    return stored


def make(config: Run, shown: int = 8, progress: bool = True) -> Closeup:
    """Train, then pick `shown` unlabelled faces: the half on which the levels agree most, the half where least."""
    run = train.set_up(config, None, Path(), "cpu")
    train.prepare(run)
    losses = []
    for step in tqdm(range(config.steps), desc="a short training", disable=not progress):
        train.train_step(run, run.model, step)
        losses.append(float(run.tally.sums["loss/total"]))
        run.tally.sums = {}
    with torch.no_grad():
        return look(run, torch.tensor(losses), shown)


def look(run: train.Training, losses: Tensor, shown: int) -> Closeup:
    """Everything that the step after the last one is computed from."""
    pool = torch.from_numpy(run.data.pool)
    slots = torch.from_numpy(run.split.labelled)[: run.config.batch]
    others = torch.from_numpy(run.split.unlabelled)[:CANDIDATES]
    labels, truth = run.labels[pool[slots]], run.labels[pool[others]]
    labelled, weak, strong = views(run, pool[slots], pool[others])
    first, third = run.model.together(labelled, strong)
    second = run.model(weak)
    levels = run.method.levels(run.model, second, run.state, run.options)
    order = divergence(levels).argsort()
    pick = torch.cat([order[: shown // 2], order[-(shown - shown // 2) :]])
    valid = run.state.memory.valid
    tensors = {
        "labels": labels,
        "labelled_logits": first.logits,
        "labelled_text": run.model.to_text(first.feature),
        "labelled_embedding": first.embedding,
        "rows": pool[others][pick],
        "truth": truth[pick],
        "weak_logits": second.logits[pick],
        "weak_text": run.model.to_text(second.feature)[pick],
        "weak_embedding": second.embedding[pick],
        "strong_logits": third.logits[pick],
        "memory": run.state.memory.embedding[valid],
        "memory_labels": run.state.memory.label[valid].argmax(1),
        "text": run.state.text,
        "means": run.state.alignment.means,
    }
    classes = run.data.faces.classes
    return Closeup(run.config.to_dict() | {"method options": asdict(run.options)}, classes, losses, tensors)


def views(run: train.Training, labelled: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weak views of labelled faces, weak and strong views of unlabelled ones: float [., 3, h, w]."""
    size, seed = run.config.image_size, run.config.seed
    return (
        augment.weak(run.images[labelled], size, generator(seed, "close-up, labelled")),
        augment.weak(run.images[others], size, generator(seed, "close-up, weak")),
        augment.strong(run.images[others], size, generator(seed, "close-up, strong")),
    )


def divergence(levels: Mapping[str, Tensor]) -> Tensor:
    """Jensen-Shannon divergence of the levels [m, k] for each face, in nats: H(mean) - mean(H), 0 where they agree."""
    return entropy(fuse(dict(levels))) - torch.stack([entropy(p) for p in levels.values()]).mean(0)


def entropy(p: Tensor) -> Tensor:
    """Entropy of each row of p [m, k], in nats: 0 for a certain row, log k for a flat one."""
    return -(p * p.clamp_min(1e-12).log()).sum(1)


def write(path: Path, step: Closeup) -> None:
    """Store a close-up atomically. The memory is rounded to half precision, by far the largest part of it."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in step.tensors.items()}
    arrays["memory"] = arrays["memory"].astype(np.float16)
    about = records.canonical({"config": step.config, "classes": step.classes})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, about=np.array(about), losses=step.losses.numpy(), **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
