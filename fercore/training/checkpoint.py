"""Checkpoints: everything a run needs to go on, written atomically, read without pickle."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import torch

from fercore import files
from fercore.errors import UserError, reason, say


@dataclass(frozen=True)
class Checkpoint:
    """Where a run that is under way is kept, and every how many steps it is written."""

    path: Path
    every: int = 200
    about: dict = field(default_factory=dict)  # what the run is made from; it is kept in the file

    def __post_init__(self):
        if self.every < 1:
            raise UserError(f"checkpoint_every: {self.every}; expected a number of steps")

    def save(self, state: dict) -> None:
        """Write tensors and plain values; a crash leaves the checkpoint before or this one."""
        save(self.path, state | {"about": self.about})

    def load(self, device: torch.device) -> dict | None:
        """What was saved last, or None where nothing was. A damaged file is set aside, and the run begins anew.

        Raises UserError for another run's.
        """
        if not self.path.exists():
            return None
        try:
            saved = load(self.path, device)
        except UserError as error:
            say(f"{error}; now {files.set_aside(self.path).name}, and the run begins anew")
            return None
        if saved.pop("about", None) != self.about:
            raise UserError(f"{self.path}: is of another run; move it away, and this one begins anew")
        return saved

    def remove(self) -> None:
        """The run is over and stored."""
        self.path.unlink(missing_ok=True)


def save(path: Path, state: dict) -> None:
    """Write tensors and plain values atomically, sealed. Raises OSError."""
    content = io.BytesIO()
    torch.save(state, content)
    files.write(path, files.seal(content.getvalue()))


def load(path: Path, device: torch.device) -> dict:
    """Tensors and plain values of a file. Raises UserError when it is damaged, OSError when it cannot be read."""
    try:
        content = io.BytesIO(files.unseal(path.read_bytes()))
        return torch.load(content, map_location=device, weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # what torch raises on damaged bytes has no common base
        raise UserError(f"{path}: damaged ({reason(error)})") from None
