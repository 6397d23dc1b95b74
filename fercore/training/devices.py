"""Devices: which one, in which precision, and the faces on it."""

import ctypes
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fercore.errors import UserError

BF16 = ("amx_bf16", "avx512_bf16")  # instructions that multiply in bf16
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


def choose(name: str = "auto") -> torch.device:
    """The device of this name; "auto" is the GPU where there is one. Raises UserError.

    Where it is the CPU, the process keeps its freed memory from here on.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: {name!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cpu" and chosen.index is not None):
        raise UserError(f"device: {name} is not supported; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {name} was asked for and torch sees no CUDA device here")
    if chosen.type == "cuda" and (chosen.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"device: {name} was asked for and torch sees {count} here, counted from cuda:0")
    if chosen.type == "cpu":
        keep_freed_memory()
    # With its number, as tensors report it: torch.device("cuda") != torch.device("cuda:0").
    return torch.device("cuda", torch.cuda.current_device()) if chosen == torch.device("cuda") else chosen


def precision(asked: str, device: torch.device) -> str:
    """ "bf16" or "fp32", for the backbone: as asked, or under "auto" bf16 where the hardware multiplies in it.

    On a CPU that is AMX or AVX512_BF16; without either bf16 is emulated and slower than fp32.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and any(map(capabilities().get, BF16)) else "fp32"


def capabilities() -> Mapping[str, object]:
    """What this processor can do, as torch names it."""
    return torch.cpu.get_capabilities()


def name(device: torch.device) -> str:
    """Kind and name of a device, as a record carries it."""
    return f"{device.type}: {torch.cuda.get_device_name(device) if device.type == 'cuda' else _processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


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
