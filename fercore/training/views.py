"""What a step sees: views of the labelled and unlabelled faces of its number, drawn on the device."""

from typing import NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fercore import augment
from fercore.config import Run
from fercore.data.prepare import Data
from fercore.data.splits import Split
from fercore.methods.api import Batch
from fercore.training import devices
from fercore.training.rng import batch_indices, generator


class Pixels(NamedTuple):
    """The faces of a run on its device, and which of them are labelled."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    pool: Int64[Tensor, " p"]  # training faces, by their rows above
    labelled: Int64[Tensor, " l"]  # and positions in the pool
    unlabelled: Int64[Tensor, " u"]
    device: torch.device

    def gather(self, rows: Int64[Tensor, " b"]) -> tuple[UInt8[Tensor, "b c h w"], Int64[Tensor, " b"]]:
        """Faces and labels of these rows."""
        return devices.take(self.images, rows, self.device), augment.send(self.labels[rows], self.device)

    def batch(self, config: Run, asked: dict[str, int], step: int) -> tuple[Batch, Int64[Tensor, " m"] | None]:
        """The views that a method asks for, and the hidden labels of the unlabelled faces (for the tally alone)."""
        slots = batch_indices(self.labelled, config.batch, step, config.seed, "labelled")
        faces, labels = self.gather(self.pool[slots])
        labelled = augment.weak(faces, config.image_size, generator(config.seed, "labelled views", step))
        weak: tuple = ()
        strong: tuple = ()
        hidden, others = None, slots[:0]
        if any(asked.values()):
            others = batch_indices(self.unlabelled, config.unlabelled_batch, step, config.seed, "unlabelled")
            faces, hidden = self.gather(self.pool[others])
            weak, strong = (
                tuple(
                    view(faces, config.image_size, generator(config.seed, f"{kind} {i}", step))
                    for i in range(asked[kind])
                )
                for kind, view in (("weak", augment.weak), ("strong", augment.strong))
            )
        progress = torch.tensor(step / config.steps)
        slots, others, progress = (augment.send(values, self.device) for values in (slots, others, progress))
        draws = generator(config.seed, "method", step)
        return Batch(labelled, labels, slots, weak, strong, others, progress, draws), hidden

    def plain(self, rows: Int64[Tensor, " n"], size: int, batch: int = 256):
        """The view of evaluation of these rows, a few hundred at a time."""
        for part in rows.split(batch):
            yield augment.centre(devices.take(self.images, part, self.device), size)


def pixels(data: Data, split: Split, device: torch.device) -> Pixels:
    """The faces of these data on the device, split so."""
    labelled, unlabelled = (torch.from_numpy(part) for part in (split.labelled, split.unlabelled))
    images = devices.resident(data.faces.images, device)
    return Pixels(
        images, torch.from_numpy(data.faces.labels), torch.from_numpy(data.pool), labelled, unlabelled, device
    )
