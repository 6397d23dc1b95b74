"""What every training needs before its first step: a device, a precision, the faces on the device."""

import ctypes
import sys
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fercore.datasets import load
from fercore.datasets.faces import TEST, TRAIN, Faces, duplicates_across
from fercore.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16")
# Parameters of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let glibc keep what is freed; elsewhere nothing happens.

    It would hand every large block back to the system, and a step on the CPU would fault the pages
    of its activations in again, each time: 150,000 of them at batch 16+16 and 224 px.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_MAX, 0)
        libc.mallopt(TRIM_THRESHOLD, -1)  # never; any other number ends at 2 GiB


def device(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is the GPU where there is one. Raises UserError.

    Where it is the CPU, the process keeps its freed memory from here on.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: {name!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {name} was asked for and torch sees no CUDA device here")
    if chosen.type == "cpu":
        keep_freed_memory()
    # With its number, as tensors report it: torch.device("cuda") != torch.device("cuda:0").
    return torch.device("cuda", torch.cuda.current_device()) if chosen == torch.device("cuda") else chosen


def bf16(precision: str, device: torch.device) -> bool:
    """Whether the backbone runs in bf16: where asked for, or under "auto" where the hardware multiplies in it."""
    if precision not in PRECISIONS:
        raise UserError(f"precision: {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without matrix instructions for it, bf16 is emulated and slower than fp32.
    return device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)


@dataclass(frozen=True)
class Data:
    """Faces of one run. `pool` holds the positions of the training faces in `faces`, duplicates dropped."""

    faces: Faces
    pool: Int64[np.ndarray, " n"]
    test: Int64[np.ndarray, " t"]
    dropped: int

    def summary(self) -> dict:
        """What the record says of the data."""
        tested = self.faces.notes.get("test", "test")
        return {
            "name": self.faces.name,
            "fingerprint": self.faces.fingerprint,
            "classes": list(self.faces.classes),
            "train": len(self.pool),
            "test": len(self.test),
            "tested_on": tested,
            "duplicates_dropped": self.dropped,
            "notes": self.faces.notes,
        }


def data(name: str, root, *, size: int, drop_duplicates: bool = True, options: dict) -> Data:
    """Load a data set; by default without the training faces that are byte-identical to a test face."""
    faces = load(name, root, size=size, **options)
    pool, test = np.flatnonzero(faces.split == TRAIN), np.flatnonzero(faces.split == TEST)
    if not len(pool) or not len(test):
        raise UserError(f"{name}: {len(pool)} training and {len(test)} test faces; both are needed")
    dropped = duplicates_across(faces) if drop_duplicates else np.empty(0, np.int64)
    kept = np.setdiff1d(pool, dropped)
    return Data(faces, kept, test, len(pool) - len(kept))


def resident(images: UInt8[np.ndarray, "n c h w"], device: torch.device) -> UInt8[Tensor, "n c h w"]:
    """All images as one tensor: on the device where they take less than half of its free memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    if device.type == "cuda" and tensor.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
        return tensor.to(device)
    return tensor


def take(images: UInt8[Tensor, "n c h w"], rows: Int64[Tensor, " b"], device: torch.device) -> UInt8[Tensor, "b c h w"]:
    """Rows of `images` on the device. Host images and rows reach it by one asynchronous copy."""
    if images.device == device:
        rows = rows if device.type == "cpu" else rows.pin_memory().to(device, non_blocking=True)
        return images[rows]
    return images[rows].pin_memory().to(device, non_blocking=True)
