"""Tensors in files: safetensors with a digest of what is in them, checked when they are read."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fercore import files

DIGEST = "digest"  # of the tensors, in the header


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Of names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else str(tensor.item()).encode())
    return found.hexdigest()


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write them atomically, with their digest in the header."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with files.atomic(path) as temporary:
        save_file(contiguous, temporary, metadata={**metadata, DIGEST: digest(contiguous)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file. Raises OSError, ValueError or SafetensorError for one that is missing or damaged.

    A file of another program has no digest, and nothing to check.
    """
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata() or {}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (no container)
    if metadata.get(DIGEST, known := digest(tensors)) != known:
        raise ValueError("its content is not what was written")
    return tensors, metadata
