"""Checkpoints: everything a run needs to go on, written atomically, read without pickle."""

import os
from pathlib import Path

import torch

from fercore.errors import UserError, reason


def save(path: Path, state: dict) -> None:
    """Write tensors and plain values; a crash leaves the checkpoint before or this one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> dict | None:
    """The checkpoint, or None where there is none. Raises UserError when the file is damaged."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # what torch raises on damaged bytes has no common base
        raise UserError(f"{path}: damaged checkpoint ({reason(error)}); delete it, and the run starts again") from None
