"""Image files on the disk: which there are, when they change, and how they become arrays."""

import json
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from fercore.data.faces import Source, Table, digest
from fercore.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
ORIENTATION = 0x0112  # the EXIF tag: a telephone held upright stores a picture that lies on its side
LISTS = "`python -m fercore data NAME ROOT` lists all such"
LARGEST = 1024  # px: longer sides are resized even where all photographs share them, or a phone's would fill the disk


def located(root: str | Path | None, name: str, layout: str, origin: str) -> Path:
    """The data set's root as a path that exists; UserError with its layout and origin where it does not."""
    if root is None:
        raise UserError(f"{name}: no data root given; expected {layout}; {origin}")
    path = Path(root).expanduser()
    if not path.exists():
        raise UserError(f"{name}: {root} does not exist; expected {layout}; {origin}")
    return path


def below(path: Path) -> list[Path]:
    """The image files below a folder, sorted by path."""
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def subfolders(path: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def class_folders(
    root: Path, place: Path, split: int, classes: tuple[str, ...], spelled: Callable[[str], str | None]
) -> Iterator[tuple[str, int, int]]:
    """(file below root, label, split) of every image in `place`/<class>/; UserError for a folder of no class."""
    for path in subfolders(place):
        if (name := spelled(path.name)) not in classes:
            raise UserError(f"{path}: unknown class {path.name!r}; expected {', '.join(classes)}")
        for file in below(path):
            yield file.relative_to(root).as_posix(), classes.index(name), split


def columns(rows: Iterable[tuple[str, int, int]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(file, label, split) rows as files, labels int64 [n], split int8 [n]."""
    files, labels, split = zip(*rows) if (rows := list(rows)) else ((), (), ())
    return list(files), np.array(labels, np.int64), np.array(split, np.int8)


def stamp(root: Path, *parts: str, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Names, sizes and times of the files `parts` of root and, in folders, of all files with these suffixes."""
    found = []

    def note(name: str, stat: os.stat_result | None):
        found.append((name, stat and stat.st_size, stat and stat.st_mtime_ns))

    def walk(folder: str, name: str):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    walk(entry.path, f"{name}/{entry.name}")
                elif entry.name.lower().endswith(suffixes):
                    note(f"{name}/{entry.name}", entry.stat())

    for part in parts:
        path = root / part
        if path.is_dir():
            walk(str(path), part)
        else:
            note(part, path.stat() if path.exists() else None)
    return digest(json.dumps(sorted(found, key=lambda entry: entry[0])).encode())


def of_files(root: Path, key: str, table: Callable[[], tuple]) -> Source:
    """Source of a data set of image files.

    `table()` returns (Table, files below root) or, for faces to be cut out of photographs,
    (Table, files, boxes [n, 4] as left, top, right, bottom in pixels). It is called only on a cache miss.
    """

    def read(put: Callable, size: int | None) -> Table:
        rows, files, boxes = (*table(), None)[:3]
        if not files:
            raise UserError(f"{root}: no image found ({', '.join(SUFFIXES)})")
        shape, channels = (None, 3) if size is None else common_shape(root, files, boxes)
        resized = size if shape is None else None
        for image in decode(root, files, boxes, resized, channels):
            put(image)
        sizes = [(root / file).stat().st_size if (root / file).is_file() else None for file in files]
        content = json.dumps([*zip(rows.sources, sizes, rows.labels.tolist(), rows.split.tolist())])
        return replace(rows, fingerprint=digest(content.encode()), resized=resized)

    return Source(key, read)


def common_shape(
    root: Path, files: list[str], boxes: Int[np.ndarray, "n 4"] | None
) -> tuple[tuple[int, int] | None, int]:
    """((width, height) of all faces, or None where they differ or are large; channels), from the headers alone."""

    def header(i: int) -> tuple:
        with photograph(root / files[i]) as image:
            turned = boxes is None and image.getexif().get(ORIENTATION, 1) > 4
            left, top, right, bottom = (0, 0, *image.size) if boxes is None else clipped(boxes[i], image)
            size = right - left, bottom - top
            return (size[::-1] if turned else size), image.mode in GREY

    sizes, grey = zip(*parallel(header, len(files), "headers"))
    common = len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST
    return (sizes[0] if common else None), 1 if all(grey) else 3


def decode(
    root: Path, files: list[str], boxes: Int[np.ndarray, "n 4"] | None, size: int | None, channels: int
) -> Iterator[UInt8[np.ndarray, "c h w"] | UserError]:
    """Each face as uint8 [c, h, w], cut out and resized as asked; a UserError in place of an unreadable one."""

    def one(i: int):
        try:
            with photograph(root / files[i]) as image:
                image = ImageOps.exif_transpose(image) if boxes is None else image.crop(clipped(boxes[i], image))
                image = image.convert("L" if channels == 1 else "RGB")
                if size is not None:
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
                return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        except UserError as error:
            return error

    yield from parallel(one, len(files), "faces")


def clipped(box: Int[np.ndarray, " 4"], image: Image.Image) -> tuple[int, int, int, int]:
    """The part of a box (left, top, right, bottom) that lies on the photograph."""
    left, top, right, bottom = (int(value) for value in box)
    inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(f"the box {left, top, right, bottom} lies outside a photograph of {image.size}")
    return inside


@contextmanager
def photograph(path: Path) -> Iterator[Image.Image]:
    """The image at `path`, opened. What goes wrong with it in the block becomes a UserError that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"{path} is missing; fetch it again ({LISTS})") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"{path} is unreadable ({error}); fetch it again or leave it out ({LISTS})") from None


def parallel(work: Callable[[int], object], count: int, what: str) -> Iterator:
    """work(0), work(1) ... work(count - 1) in order, on threads (PIL frees the lock), a few ahead of what is used."""
    workers = min(8, os.cpu_count() or 1)
    bar = tqdm(range(count), what, unit="img", leave=False, delay=1)
    with ThreadPoolExecutor(workers) as pool, bar:
        ahead = deque()
        for i in bar:
            ahead.append(pool.submit(work, i))
            if len(ahead) > 4 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
