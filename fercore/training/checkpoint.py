"""Checkpoints: everything a run needs to go on, written atomically, read without pickle."""

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from fercore import files
from fercore.errors import UserError, reason


@dataclass(frozen=True)
class Checkpoint:
    """Where a run that is under way is kept, and every how many steps it is written."""

    path: Path
    every: int = 200

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"checkpoint_every: {self.every}; expected a number of steps")

    def save(self, state: dict) -> None:
        """Write tensors and plain values; a crash leaves the checkpoint before or this one."""
        save(self.path, state)

    def load(self, device: torch.device) -> dict | None:
        """What was saved last, or None where nothing was. Raises UserError when the file is damaged."""
        return load(self.path, device) if self.path.exists() else None

    def remove(self) -> None:
        """The run is over and stored."""
        self.path.unlink(missing_ok=True)


def save(path: Path, state: dict) -> None:
    """Write tensors and plain values atomically, sealed."""
    content = io.BytesIO()
    torch.save(state, content)
    with files.atomic(path) as temporary:
        temporary.write_bytes(files.seal(content.getvalue()))


def load(path: Path, device: torch.device) -> dict:
    """Tensors and plain values of a file. Raises UserError when it is damaged."""
    try:
        content = io.BytesIO(files.unseal(path.read_bytes()))
        return torch.load(content, map_location=device, weights_only=True)
    except Exception as error:  # what torch raises on damaged bytes has no common base
        raise UserError(f"{path}: damaged ({reason(error)}); delete it, and it is made again") from None
