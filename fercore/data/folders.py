"""Folders of the user's: what lies in them, what is left out of them, and the hash of each file."""

import contextlib
import json
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from fercore import files, paths
from fercore.errors import UserError

T = TypeVar("T")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".jp2"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
HEIC = "HEIC, which Pillow does not read: convert it to JPEG"
SYSTEM = ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found")  # not the user's own files
YOUNG = 2.0  # seconds: a file that changed less long ago may change again within one tick of the file system's clock


def located(root: str | Path | None, name: str, layout: str, origin: str) -> Path:
    """The data set's root, a file or folder that exists; UserError with its layout and origin where it does not."""
    if root is None:
        raise UserError(f"{name}: no data root given; expected {layout}; {origin}")
    try:
        path = Path(root).expanduser()
        kind = path.stat().st_mode
    except (OSError, ValueError, RuntimeError):
        raise UserError(f"{name}: {shown(str(root))} does not exist; expected {layout}; {origin}") from None
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
        raise UserError(f"{name}: {root} is a pipe or a device; expected {layout}; {origin}")
    return path


def ours(name: str) -> bool:
    """Whether a file or folder of this name is neither hidden nor the operating system's."""
    return not name.startswith(".") and name.lower() not in SYSTEM


def listed(folder: str | Path) -> list[os.DirEntry]:
    """What lies in a folder, sorted by name. Raises UserError where that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{shown(str(folder))} cannot be read ({error.strerror})") from None


def is_folder(entry: os.DirEntry, above: Iterable[str] = ()) -> bool:
    """Whether it is a folder, or a link to one that leads neither back above itself nor to one of `above`."""
    if not entry.is_symlink():
        return entry.is_dir()
    there, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    return os.path.isdir(there) and not any(Path(place).is_relative_to(there) for place in (here, *above))


def is_picture(entry: os.DirEntry, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether its name says so; also of a link to nowhere, which is then listed as unreadable."""
    if not entry.name.lower().endswith(suffixes):
        return False
    return os.path.isfile(entry.path) or not os.path.exists(entry.path) if entry.is_symlink() else entry.is_file()


def walk(folder: str | Path, every: bool = False, above: tuple[str, ...] = ()) -> Iterator[os.DirEntry]:
    """The files below a folder, sorted by name; links are followed, but for those that lead back.

    `every`: these too, and whatever is hidden or the system's, of a folder without what lies in it.
    """
    above = (*above, os.path.realpath(folder))
    for entry in listed(folder):
        if ours(entry.name) and is_folder(entry, above):
            yield from walk(entry.path, every, above)
        elif every or (ours(entry.name) and not (entry.is_symlink() and os.path.isdir(entry.path))):
            yield entry


def below(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files with these endings (pictures) below a folder, sorted by path."""
    return sorted(Path(entry.path) for entry in walk(path) if is_picture(entry, suffixes))


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones and the system's."""
    return [Path(entry.path) for entry in listed(path) if ours(entry.name) and is_folder(entry)]


def left_out(root: Path, read: Collection[str]) -> Counter[str]:
    """Why files below the root are not among those that were read (paths below it), and how many for each reason."""
    why: Counter[str] = Counter()
    for entry in walk(root, every=True):
        file = Path(entry.path).relative_to(root)
        if file.as_posix() not in read:
            why[_reason(entry, file)] += 1
    places = subfolders(root)
    for folder in [*places, *(inner for place in places for inner in subfolders(place))]:
        if next(walk(folder, every=True), None) is None:
            why[f"the folder {shown(folder.relative_to(root).as_posix())} is empty"] += 1
    return why


def _reason(entry: os.DirEntry, file: Path) -> str:
    suffix = file.suffix.lower()
    if not ours(entry.name):
        return "hidden, or the operating system's"
    if os.path.isdir(entry.path):
        return "a link that leads back above itself"
    if os.path.exists(entry.path) and not os.path.isfile(entry.path):
        return "no file but a pipe or a device"
    if suffix in (".heic", ".heif"):
        return HEIC
    if suffix not in SUFFIXES:
        return f"no picture: {shown(suffix) or 'no ending'}"
    return f"a picture in no folder that is read: {shown(file.parent.as_posix())}"


def shown(name: str) -> str:
    """A path as it can be printed: bytes that are not UTF-8, and line ends, are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\r", "\\r")


def contents(root: Path, *parts: str, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, str]:
    """Path below the root -> hash of its bytes, of the files `parts` and, in folders, of all with these endings.

    The hash is "" where nothing can be read. Hashes are kept in the cache, and a file whose size, times and number
    (inode) are as they were is not read again: a program can set the date of a file, but not the moment of its change.
    """
    states: dict[str, list[int]] = {}
    for part in parts:
        place = root / part
        if place.is_dir():
            found = (entry.path for entry in walk(place) if is_picture(entry, suffixes))
            states |= {part + file[len(str(place)) :].replace(os.sep, "/"): _state(file) for file in found}
        else:
            states[part] = _state(place)
    kept = paths.cache() / "hashes" / files.digest(json.dumps([os.path.realpath(root), parts]).encode())
    try:
        known = json.loads(files.unseal(kept.read_bytes()))
    except (OSError, ValueError):  # missing, or damaged
        known = {}
    doubted = [name for name, state in states.items() if state and known.get(name, [None])[:-1] != state]
    new = dict(zip(doubted, parallel(lambda i: _hash(root / doubted[i]), len(doubted), "hashes")))
    hashes = {name: new[name] if name in new else known[name][-1] if state else "" for name, state in states.items()}
    if new or len(known) != len(states):
        limit = (time.time() - YOUNG) * 1e9
        old = {name: [*state, hashes[name]] for name, state in states.items() if state and max(state[1:3]) < limit}
        with contextlib.suppress(OSError):  # without them, all is read again
            files.write(kept, files.seal(json.dumps(old).encode()))
    return {name.removeprefix("./"): hashes[name] for name in sorted(hashes)}


def _state(file: str | Path) -> list[int]:
    """What changes with a file; empty where it is none."""
    try:
        now = os.stat(file)
    except (OSError, ValueError):
        return []
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino] if stat.S_ISREG(now.st_mode) else []


def _hash(file: Path) -> str:
    try:
        return files.sha256(file)[:16]
    except OSError:
        return ""


def parallel(work: Callable[[int], T], count: int, what: str) -> Iterator[T]:
    """work(0), work(1) ... work(count - 1) in order, on threads (PIL frees the lock), a few ahead of what is used."""
    workers = min(8, os.cpu_count() or 1)
    bar = tqdm(range(count), what, unit="file", leave=False, delay=1)
    with ThreadPoolExecutor(workers) as pool, bar:
        ahead: deque[Future[T]] = deque()
        for i in bar:
            ahead.append(pool.submit(work, i))
            if len(ahead) > 4 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
