"""Files that are there whole or not at all, and the names that content gives them."""

import contextlib
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

SEAL = b"fercore sealed 1\n"
DAY = 86400  # seconds


def digest(data: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


HERE = digest(platform.node().encode())[:8]  # this machine: several may share a folder
TEMPORARY = re.compile(r"\..+\.(?:(?P<machine>[0-9a-f]{8})-)?(?P<process>\d+)\.tmp")


def _abandoned(left: Path) -> bool:
    """Whether this is a temporary file of a dead process; of another machine's, whether it was long untouched."""
    if not (parts := TEMPORARY.fullmatch(left.name)):
        return False
    try:
        if parts["machine"] != HERE:
            return time.time() - left.stat().st_mtime > DAY
        os.kill(int(parts["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # gone meanwhile, or somebody else's
        pass
    return False


def remove(path: Path) -> None:
    """A file or a folder, whether it is there or not."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)


@contextlib.contextmanager
def named(path: Path, *other: Path) -> Iterator[None]:
    """An OSError of this block that names no file, as of a full disk, or one of `other`, names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, *other, *map(str, other)):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A free name beside `path`, for a file or a folder that is to take its place; what is left there is removed.

    So is what dead processes left in its folder. Raises OSError that names `path`.
    """
    own = path.with_name(f".{path.name}.{HERE}-{os.getpid()}.tmp")
    try:
        with named(path, own):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(".*.tmp"):
                if _abandoned(left):
                    remove(left)
            yield own
    finally:
        remove(own)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends well, flushed to the disk.

    A link is written through. Raises OSError that names `path`.
    """
    path = Path(os.path.realpath(path))
    with temporary(path) as own:
        yield own
        with open(own, "rb") as file:
            os.fsync(file.fileno())
        os.replace(own, path)


def set_aside(path: Path) -> Path:
    """Rename what is damaged to NAME.damaged, or to the next such name that is free; returns it."""
    names = (f"{path.name}.damaged{number or ''}" for number in itertools.count())
    aside = next(place for place in map(path.with_name, names) if not place.exists())
    os.rename(path, aside)
    return aside


def seal(content: bytes) -> bytes:
    """The content behind its digest."""
    return SEAL + hashlib.sha256(content).digest() + content


def unseal(sealed: bytes) -> bytes:
    """The inverse. Raises ValueError where it is not what was sealed."""
    start, digest_, content = sealed[: len(SEAL)], sealed[len(SEAL) : len(SEAL) + 32], sealed[len(SEAL) + 32 :]
    if start != SEAL or hashlib.sha256(content).digest() != digest_:
        raise ValueError("its content is not what was written")
    return content


def write(path: Path, content: str | bytes) -> None:
    """Write a file atomically; line ends stay as they are."""
    with atomic(path) as own:
        own.write_bytes(content.encode() if isinstance(content, str) else content)


def canonical(value: object) -> str:
    """Compact JSON with sorted keys: equal values give equal text. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


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


def sha256_once(path: Path) -> str:
    """Hash of a file, read once in a process while the file stays as it is: 0.7 s for each GB."""
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache
def _sha256(path: Path, *stat: int) -> str:
    return sha256(path)
