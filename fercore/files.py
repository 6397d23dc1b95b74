"""Files that are there whole or not at all, and the names that content gives them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

SEAL = b"fercore sealed 1\n"


def _alive(temporary: Path) -> bool:
    """Whether the process that writes this file still runs."""
    try:
        os.kill(int(temporary.name.split(".")[-2]), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:  # somebody else's
        pass
    return True


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends well, flushed to the disk.

    A link is written through. What dead processes left is removed.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if not _alive(left):
            left.unlink(missing_ok=True)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def seal(content: bytes) -> bytes:
    """The content behind its digest."""
    return SEAL + hashlib.sha256(content).digest() + content


def unseal(sealed: bytes) -> bytes:
    """The inverse. Raises ValueError where it is not what was sealed."""
    start, digest_, content = sealed[: len(SEAL)], sealed[len(SEAL) : len(SEAL) + 32], sealed[len(SEAL) + 32 :]
    if start != SEAL or hashlib.sha256(content).digest() != digest_:
        raise ValueError("its content is not what was written")
    return content


def write(path: Path, text: str) -> None:
    """Write a text file atomically; line ends stay as they are."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode())


def canonical(value: object) -> str:
    """Compact JSON with sorted keys: equal values give equal text. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(data: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def key_of(config: Mapping) -> str:
    """The key of a run: the digest of its configuration. Needs no data and no weights at hand."""
    return digest(canonical(config).encode())


def sha256(path: Path) -> str:
    """Hash of a file, read in blocks."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 16):
            found.update(block)
    return found.hexdigest()
