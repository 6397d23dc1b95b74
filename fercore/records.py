"""Records: one JSON line per finished run, appended to `results/<profile>/records.jsonl`.

Records are the truth: every table and figure is a function of them. A line is written whole or not
at all, and a record is never edited.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from filelock import FileLock

from fercore import paths
from fercore.errors import UserError


def canonical(value: object) -> str:
    """Compact JSON with sorted keys: equal values give equal text. Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(data: bytes) -> str:
    """First 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def key_of(config: Mapping) -> str:
    """The key of a run: the digest of its configuration. Needs no data and no weights at hand."""
    return digest(canonical(config).encode())


def read(path: Path) -> list[dict]:
    """All records of a file, in order; an absent file has none. Raises UserError with the line that is damaged."""
    if not path.exists():
        return []
    out = []
    # Bytes: str.splitlines also splits at separators that JSON leaves inside a string.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:  # no JSON, or no UTF-8
            raise UserError(
                f"{path}, line {number}: not a JSON record ({error}); delete the line to have its run made again, "
                "or restore the file with git"
            ) from None
        if not isinstance(record, dict) or not {"key", "kind", "status", "config"} <= set(record):
            raise UserError(f"{path}, line {number}: a record needs the fields key, kind, status and config")
        out.append(record)
    return out


def finished(records: Iterable[dict]) -> dict[str, dict]:
    """Finished records by key; the last one of a key counts."""
    return {record["key"]: record for record in records if record["status"] == "finished"}


def beside(path: Path) -> Path:
    """Where runs that a file of records has already, made once more, are kept."""
    return path.with_name("again.jsonl")


def with_again(path: Path) -> list[dict]:
    """All records of a file; a run that was made once more has these others in a field `again`, in memory alone."""
    repeats: dict[str, list[dict]] = {}
    for record in read(beside(path)):
        if record["status"] == "finished":
            repeats.setdefault(record["key"], []).append(record)
    return [r | {"again": repeats[r["key"]]} if r["key"] in repeats else r for r in read(path)]


def alike(some: Sequence[Mapping]) -> list[Mapping]:
    """These runs as made from one start file: each itself, or the same run made once more.

    Two machines make one start twice, equal to within rounding. What is compared should not differ in that as well.
    The first start that all of them have counts, the first run's own before others; without one nothing is replaced.
    """
    made = [{r["start"]["sha256"]: r for r in (*reversed(record.get("again", ())), record)} for record in some]
    first = [r["start"]["sha256"] for record in some[:1] for r in (record, *record.get("again", ()))]
    shared = next((start for start in first if all(start in runs for runs in made)), None)
    return list(some) if shared is None else [runs[shared] for runs in made]


def append(path: Path, record: Mapping) -> None:
    """Add one record. Several processes may append to one file; a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = canonical(record)
    with FileLock(path.with_suffix(".lock")):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before and not before.endswith("\n"):
            before += "\n"
        write(path, before + line + "\n")


def write(path: Path, text: str) -> None:
    """Write a text file atomically: temporary file beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def source_hash() -> str:
    """Digest of the package's Python files: which code made the record, also outside a git checkout."""
    folder = Path(__file__).parent
    files = sorted(folder.rglob("*.py"))
    return digest(b"".join(f.relative_to(folder).as_posix().encode() + b"\0" + f.read_bytes() for f in files))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=paths.ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def provenance(device: torch.device, precision: str, seconds: float, steps: int) -> dict:
    """Where a record comes from: commit, dirty flag, source hash, versions, device, seconds."""
    # Results are not code: a sweep that appends records does not make its own later runs dirty.
    status = _git("status", "--porcelain", "--", "fercore", "params", "pyproject.toml")
    versions = {p: importlib.metadata.version(p) for p in ("torch", "torchvision", "numpy")}
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "source": source_hash(),
        "versions": {"python": platform.python_version(), **versions},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "seconds": round(seconds, 1),
        "seconds_per_step": round(seconds / max(steps, 1), 4),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def device_name(device: torch.device) -> str:
    """Kind and name of a device, as a record carries it."""
    return f"{device.type}: {torch.cuda.get_device_name(device) if device.type == 'cuda' else _processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
