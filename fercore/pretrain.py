"""A start that anyone may use: SimCLR on the training faces, without any label.

Two face-safe views of each face, a projection of the feature, and InfoNCE between the views (Chen
et al. 2020). The backbone goes into a safetensors file; the record says what it is worth.
"""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tqdm.auto import tqdm

from fercore import checkpoint, probe, records, setting
from fercore.augment import contrastive
from fercore.config import typed
from fercore.encoders import ImageEncoder
from fercore.errors import UserError
from fercore.losses import info_nce
from fercore.optimisers import Adam
from fercore.randomness import batch_indices, generator
from fercore.starts import sha256


@dataclass(frozen=True)
class Pretrain:
    """One self-supervised training. Its key names the start in every run that uses it."""

    dataset: str
    steps: int
    image_size: int
    dataset_options: dict = field(default_factory=dict)
    encoder: str = "resnet18"
    batch: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05  # share of the steps; then a cosine to zero
    temperature: float = 0.2
    projection: int = 128
    seed: int = 0
    precision: str = "auto"
    drop_duplicates: bool = True

    def __post_init__(self):
        vars(self).update(typed(Pretrain, vars(self)))
        if self.steps < 1 or self.batch < 2:
            raise UserError(f"steps must be at least 1 and batch at least 2, got {self.steps} and {self.batch}")

    @property
    def key(self) -> str:
        return records.key_of({"kind": "pretrain", **asdict(self)})


def file(results: Path, key: str) -> Path:
    """Where the weights of a start lie. They are rebuilt when missing and never committed."""
    return results / "starts" / f"{key}.safetensors"


def rate(config: Pretrain, step: int) -> float:
    """Learning rate at a step: linear warm-up, half a cosine."""
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return config.lr * (step + 1) / warm
    progress = (step - warm) / max(1, config.steps - warm)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def run(
    config: Pretrain,
    *,
    data_root: str | Path | None = None,
    results: Path,
    device: str = "auto",
    checkpoint_every: int = 100,
    progress: bool = True,
) -> dict:
    """Train, write the weights to `file(results, config.key)`, and return the record (appended to records.jsonl).

    An interrupted call goes on from its last checkpoint. Raises UserError for bad input.
    """
    where = setting.device(device)
    data = setting.data(
        config.dataset,
        data_root,
        size=config.image_size,
        drop_duplicates=config.drop_duplicates,
        options=config.dataset_options,
    )
    images = setting.resident(data.faces.images, where)
    pool = torch.from_numpy(data.pool)
    bf16 = setting.bf16(config.precision, where)
    model = ImageEncoder(
        config.encoder, len(data.faces.classes), projection=config.projection, bf16=bf16, seed=config.seed
    ).to(where)
    model.train()
    trained = [*model.backbone.parameters(), *model.project.parameters()]
    optimiser = Adam(trained, lr=config.lr, weight_decay=config.weight_decay)
    saved = results / "checkpoints" / f"{config.key}.pt"
    history: list[dict] = []
    first, before = 0, 0.0
    if state := checkpoint.load(saved, where):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, before, history = state["step"], state["seconds"], state["history"]
    started, total, counted = time.perf_counter(), torch.zeros((), device=where), 0
    bar = tqdm(range(first, config.steps), initial=first, total=config.steps, desc="pretrain", disable=not progress)
    for step in bar:
        rows = batch_indices(pool, config.batch, step, config.seed, "pretrain")
        faces = setting.take(images, rows, where)
        views = contrastive(torch.cat([faces, faces]), config.image_size, generator(config.seed, "views", step))
        z = F.normalize(model.project(model.feature(views)), dim=1)
        loss = info_nce(*z.chunk(2), config.temperature)
        loss.backward()
        optimiser.step(rate(config, step))
        total, counted = total + loss.detach(), counted + 1
        if (step + 1) % checkpoint_every == 0 or step + 1 == config.steps:
            history.append({"step": step + 1, "loss": round(float(total) / counted, 5)})
            bar.set_postfix(loss=f"{history[-1]['loss']:.3f}")
            total, counted = torch.zeros((), device=where), 0
            seconds = before + time.perf_counter() - started
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            checkpoint.save(saved, {**state, "step": step + 1, "seconds": seconds, "history": history})
    seconds = before + time.perf_counter() - started
    # Measured before the weights are there, as a sweep takes a start that is there for finished.
    scores = worth(model, data, images, config.image_size)
    weights = file(results, config.key)
    write_weights(weights, model, config)
    record = {
        "key": config.key,
        "kind": "pretrain",
        "status": "finished",
        "config": asdict(config),
        "data": data.summary(),
        "start": {"kind": "pretrain", "key": config.key, "sha256": sha256(weights), "matched": 1.0},
        "metrics": {**scores, "loss": history[-1]["loss"]},
        "history": history,
        "provenance": records.provenance(where, "bf16" if bf16 else "fp32", seconds, config.steps),
    }
    records.append(results / "records.jsonl", record)
    saved.unlink(missing_ok=True)
    return record


def write_weights(path: Path, model: ImageEncoder, config: Pretrain) -> None:
    """The backbone as safetensors, with its configuration in the header; atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.backbone.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary, metadata={"pretrain": records.canonical(asdict(config))})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def worth(model: ImageEncoder, data: setting.Data, images: torch.Tensor, size: int) -> dict:
    """Test accuracy of a linear probe and of 20 nearest neighbours on the frozen features."""
    where = next(model.parameters()).device
    labels = torch.from_numpy(data.faces.labels)
    train, test = (probe.features(model, images, torch.from_numpy(rows), size) for rows in (data.pool, data.test))
    known, truth = labels[data.pool].to(where), labels[data.test].to(where)
    return {
        "linear_probe": round(probe.linear_probe(train, known, test, truth), 4),
        "knn": round(probe.nearest_neighbours(train, known, test, truth), 4),
    }
