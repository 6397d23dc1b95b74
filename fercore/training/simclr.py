"""A start that anyone may use: SimCLR on the training faces, without any label.

Two face-safe views of each face, a projection of the feature, and InfoNCE between the views (Chen
et al. 2020). What comes out is a backbone, and a record of what it is worth.
"""

import math
import time
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from fercore import files
from fercore.augment import contrastive
from fercore.config import Batch, Pixels, Plain, Positive, Precision, Seed, Share, Steps, Weight, Width, typed
from fercore.data.faces import UNKNOWN
from fercore.data.prepare import Data
from fercore.encoders import ImageEncoder
from fercore.losses import info_nce
from fercore.methods.api import Step
from fercore.training import devices, probe
from fercore.training.checkpoint import Checkpoint
from fercore.training.diagnostics import Tally
from fercore.training.rng import batch_indices, generator


@dataclass(frozen=True)
class Pretrain:
    """One self-supervised training. Its key names the start in every run that uses it."""

    dataset: str
    steps: Steps
    image_size: Pixels
    dataset_options: Plain = field(default_factory=dict)
    encoder: str = "resnet18"
    batch: Batch = 256
    lr: Positive = 1e-3
    weight_decay: Weight = 1e-4
    warmup: Share = 0.05  # share of the steps; then a cosine to zero
    temperature: Positive = 0.2
    projection: Width = 128
    seed: Seed = 0
    precision: Precision = "auto"
    drop_duplicates: bool = True

    def __post_init__(self):
        vars(self).update(typed(Pretrain, vars(self)))

    @property
    def key(self) -> str:
        """Digest of the configuration."""
        return files.key_of({"kind": "pretrain", **asdict(self)})


class Outcome(NamedTuple):
    """What a pre-training leaves, as values."""

    record: dict  # all that it was made from and came to, but for the machine
    tensors: dict[str, Tensor]  # of the backbone
    seconds: float
    precision: str


def rate(config: Pretrain, step: int) -> float:
    """Learning rate at a step: linear warm-up, half a cosine."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    progress = (step - warm) / max(1, config.steps - warm)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def run(
    config: Pretrain,
    data: Data,
    *,
    device: torch.device,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> Outcome:
    """Train; an interrupted call goes on from its checkpoint. Raises RunFailed where it diverges."""
    images = devices.resident(data.faces.images, device)
    pool = torch.from_numpy(data.pool)
    precision = devices.precision(config.precision, device)
    model = ImageEncoder(
        config.encoder,
        len(data.faces.classes),
        projection=config.projection,
        bf16=precision == "bf16",
        seed=config.seed,
    ).to(device)
    model.train()
    trained = [*model.backbone.parameters(), *model.project.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    history: list[dict] = []
    first, before, every = 0, 0.0, checkpoint.every if checkpoint else config.steps
    if checkpoint and (saved := checkpoint.load(device)):
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        first, before, history = saved["step"], saved["seconds"], saved["history"]
    started, tally = time.perf_counter(), Tally()
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, desc="pretrain", disable=not progress)
    for step in bar:
        rows = batch_indices(pool, config.batch, step, config.seed, "pretrain")
        faces = devices.take(images, rows, device)
        views = contrastive(torch.cat([faces, faces]), config.image_size, generator(config.seed, "views", step))
        z = F.normalize(model.project(model.feature(views)), dim=1)
        loss = info_nce(*z.chunk(2), config.temperature)
        loss.backward()
        optimiser.param_groups[0]["lr"] = rate(config, step)
        optimiser.step()
        optimiser.zero_grad()
        tally.add(Step(loss, {}), None)
        if (step + 1) % every == 0 or step + 1 == config.steps:
            tally.check(model, step + 1)  # before a sound checkpoint is replaced
            history.append({"step": step + 1, "loss": tally.read()["loss"]["total"]})
            bar.set_postfix(loss=f"{history[-1]['loss']:.3f}")
            if checkpoint:
                seconds = before + time.perf_counter() - started
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "history": history}
                checkpoint.save({**state, "step": step + 1, "seconds": seconds})
    seconds = before + time.perf_counter() - started
    record = {
        "config": asdict(config),
        "data": data.summary(),
        "metrics": {**worth(model, data, images, config.image_size), "loss": history[-1]["loss"]},
        "history": history,
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.backbone.state_dict().items()}
    return Outcome(record, tensors, seconds, precision)


def worth(model: ImageEncoder, data: Data, images: Tensor, size: int) -> dict:
    """Test accuracy of a linear probe and of 20 nearest neighbours on the frozen features."""
    where = next(model.parameters()).device
    labels = torch.from_numpy(data.faces.labels)
    pool = data.pool[data.faces.labels[data.pool] != UNKNOWN]
    train, test = (probe.features(model, images, torch.from_numpy(rows), size) for rows in (pool, data.test))
    known, truth = labels[pool].to(where), labels[data.test].to(where)
    return {
        "linear_probe": round(probe.linear_probe(train, known, test, truth), 4),
        "knn": round(probe.nearest_neighbours(train, known, test, truth), 4),
    }
