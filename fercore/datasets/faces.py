"""Faces in memory, and the cache that decodes them once.

A loader describes its data set as a `Source`. `cached` reads it, image by image, into
`<cache>/faces/<name>-<key>/` (images.npy, columns.npz, about.json) and maps images.npy from there.
The key covers names, sizes and times of the source files, the options and FORMAT; the pixel size
enters it only where photographs differ in size and so had to be resized.
"""

import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int8, Int64, UInt8
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from fercore import paths
from fercore.errors import UserError

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
SIZE = 224  # side of the square that photographs of different sizes are resized to
FORMAT = 1  # of the cache; raise it when what a loader returns changes
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "F")


@dataclass(frozen=True)
class Faces:
    """A decoded data set. `split` is TRAIN, VALIDATION or TEST; `labels` index `classes`.

    `sources` says where each face came from: a path below the root, or "fer2013.csv.xz:17" for a
    data row. `fingerprint` (16 hex) is of the content where the source is one file (the same however
    it is compressed), else of the names and byte sizes of the image files; with labels and split.
    `meta` holds further columns of length n.
    """

    name: str
    images: UInt8[np.ndarray, "n c h w"]
    labels: Int64[np.ndarray, " n"]
    split: Int8[np.ndarray, " n"]
    classes: tuple[str, ...]
    sources: np.ndarray
    fingerprint: str
    notes: dict = field(default_factory=dict)
    meta: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """All of a source but its pixels. `resized` is the square's side where photographs were resized to one."""

    classes: tuple[str, ...]
    labels: Int64[np.ndarray, " n"]
    split: Int8[np.ndarray, " n"]
    sources: list[str]
    fingerprint: str = ""
    notes: dict = field(default_factory=dict)
    meta: dict[str, np.ndarray] = field(default_factory=dict)
    resized: int | None = None


@dataclass(frozen=True)
class Source:
    """`stamp` changes when the source does. `read(put, size)` calls put(image [c, h, w] or UserError) for
    each face in order and returns their Table; photographs of different sizes become size x size, or
    keep their own where size is None.
    """

    stamp: str
    read: Callable[[Callable, int | None], Table]


def stamp(root: Path, *parts: str, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Names, sizes and times of the files `parts` of root and, in folders, of all files with these suffixes."""
    found = []

    def walk(path: Path | os.DirEntry, name: str):
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir() or entry.name.lower().endswith(suffixes):
                        walk(entry, f"{name}/{entry.name}")
        else:
            stat = os.stat(path)
            found.append((name, stat.st_size, stat.st_mtime_ns))

    for part in parts:
        walk(root / part, part)
    return digest(json.dumps(sorted(found)).encode())


def digest(*chunks: bytes) -> str:
    """16 hex digits of SHA-256."""
    return hashlib.sha256(b"".join(chunks)).hexdigest()[:16]


def folder(root: str | Path | None, name: str, layout: str, origin: str) -> Path:
    """The data set's root as a path that exists; UserError with its layout and origin where it does not."""
    if root is None or not Path(root).exists():
        where = "no data root given" if root is None else f"{root} does not exist"
        raise UserError(f"{name}: {where}; expected {layout}; {origin}")
    return Path(root)


def pictures(path: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name."""
    return sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def of_files(root: Path, key: str, table: Callable[[], tuple]) -> Source:
    """Source of a data set of image files.

    `table()` returns (Table, files below root) or, for faces to be cut out of photographs,
    (Table, files, boxes [n, 4] as left, top, right, bottom in pixels). It is called only on a cache miss.
    """

    def read(put: Callable, size: int | None) -> Table:
        rows, files, boxes = (*table(), None)[:3]
        if not files:
            raise UserError(f"{root}: no image found")
        shape, channels = (None, 3) if size is None else common_shape(root, files, boxes)
        resized = size if shape is None else None
        for image in decode(root, files, boxes, resized, channels):
            put(image)
        names = zip(files, [(root / file).stat().st_size for file in files], rows.labels.tolist(), rows.split.tolist())
        return replace(rows, fingerprint=digest(json.dumps(list(names)).encode()), resized=resized)

    return Source(key, read)


def of_faces(make: Callable[[], Faces]) -> Source:
    """Source of faces that are made, not read: they depend on the options alone."""

    def read(put: Callable, size: int | None) -> Table:
        made = make()
        for image in made.images:
            put(image)
        rows = Table(made.classes, made.labels, made.split, made.sources.tolist(), made.fingerprint)
        return replace(rows, notes=made.notes, meta=made.meta)

    return Source("made", read)


def class_folders(
    root: Path, place: Path, split: int, classes: tuple[str, ...], spelled: Callable[[str], str | None]
) -> Iterator[tuple[str, int, int]]:
    """(file below root, label, split) of every image in `place`/<class>/; UserError for a folder of no class."""
    for path in sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if (name := spelled(path.name)) not in classes:
            raise UserError(f"{path}: unknown class {path.name!r}; expected {', '.join(classes)}")
        for file in pictures(path):
            yield file.relative_to(root).as_posix(), classes.index(name), split


def common_shape(
    root: Path, files: list[str], boxes: Int[np.ndarray, "n 4"] | None
) -> tuple[tuple[int, int] | None, int]:
    """((width, height) of all faces, or None where they differ; channels), from the headers alone."""

    def header(i: int) -> tuple:
        with opened(root / files[i], files[i]) as image:
            turned = boxes is None and image.getexif().get(0x0112, 1) > 4
            size = image.size if boxes is None else (boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1])
            return (size[::-1] if turned else size), image.mode in GREY

    sizes, grey = zip(*parallel(header, len(files), "headers"))
    return (sizes[0] if len(set(sizes)) == 1 else None), 1 if all(grey) else 3


def decode(
    root: Path, files: list[str], boxes: Int[np.ndarray, "n 4"] | None, size: int | None, channels: int
) -> Iterator[UInt8[np.ndarray, "c h w"] | UserError]:
    """Each face as uint8 [c, h, w], cut out and resized as asked; a UserError in place of an unreadable one."""

    def one(i: int):
        try:
            with opened(root / files[i], files[i]) as image:
                image = ImageOps.exif_transpose(image) if boxes is None else image.crop(clipped(boxes[i], image))
                image = image.convert("L" if channels == 1 else "RGB")
                if size is not None:
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
                return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
        except UserError as error:
            return error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return unreadable(root / files[i], error)

    yield from parallel(one, len(files), "faces")


def clipped(box: Int[np.ndarray, " 4"], image: Image.Image) -> tuple[int, int, int, int]:
    """The part of a box (left, top, right, bottom) that lies on the photograph."""
    left, top, right, bottom = (int(value) for value in box)
    inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(f"the box {left, top, right, bottom} lies outside a photograph of {image.size}")
    return inside


def opened(path: Path, name: str) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> UserError:
    what = "is missing" if isinstance(error, FileNotFoundError) else f"is unreadable ({error})"
    return UserError(f"{path} {what}; fetch it again or remove it; `python -m fercore data NAME ROOT` lists all such")


def parallel(work: Callable[[int], object], count: int, what: str) -> Iterator:
    """work(0..count-1) in order, on threads (PIL frees the lock), 256 at a time so that memory stays bounded."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        with tqdm(total=count, desc=what, unit="img", leave=False, delay=1) as bar:
            for start in range(0, count, 256):
                for result in pool.map(work, range(start, min(start + 256, count))):
                    bar.update()
                    yield result


def cached(name: str, source: Source, options: dict, size: int | None = None) -> Faces:
    """The faces of a source, from the cache where it holds them, else decoded into it."""
    size = size or SIZE
    key = digest(json.dumps([FORMAT, source.stamp, options], sort_keys=True, default=str).encode())
    home = paths.cache() / "faces"
    for place in (home / f"{name}-{key}", home / f"{name}-{key}-{size}px"):
        if (faces := open_cache(place)) is not None:
            return faces
    place = build(name, source, home / f"{name}-{key}", size)
    if (faces := open_cache(place)) is None:
        raise UserError(f"{place}: what was just written there cannot be read back; is the disk full?")
    return faces


def build(name: str, source: Source, place: Path, size: int) -> Path:
    """Decode a source into `place`, which appears whole or not at all. One image is in memory at a time."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f".{place.name}-*"):  # of a build that was killed
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        with open(work / "images.npy", "wb") as file:
            writer = Writer(file)
            table = source.read(writer.put, size)
            writer.finish()
        np.savez_compressed(
            work / "columns.npz",
            labels=table.labels,
            split=table.split,
            sources=np.array(table.sources, dtype=np.str_),
            **{f"meta.{key}": column for key, column in table.meta.items()},
        )
        about = {"name": name, "format": FORMAT, "shape": [writer.count, *writer.shape], "classes": table.classes}
        about |= {"fingerprint": table.fingerprint, "notes": table.notes}
        (work / "about.json").write_text(json.dumps(about, indent=1))
        if table.resized:
            place = place.with_name(f"{place.name}-{table.resized}px")
        try:
            os.replace(work, place)
        except OSError:  # a damaged cache is there, or another process was faster
            if open_cache(place) is None:
                shutil.rmtree(place, ignore_errors=True)
                os.replace(work, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place


class Writer:
    """Appends images to a .npy file; the number of rows in its header is set at the end."""

    def __init__(self, file):
        self.file, self.shape, self.count, self.start = file, None, 0, 0

    def header(self):
        shape = (self.count, *self.shape)
        np.lib.format.write_array_header_1_0(self.file, {"descr": "|u1", "fortran_order": False, "shape": shape})

    def put(self, image: UInt8[np.ndarray, "c h w"] | UserError):
        if isinstance(image, UserError):
            raise image
        if self.shape is None:
            self.shape = image.shape
            self.header()
            self.start = self.file.tell()
        if image.shape != self.shape:
            raise UserError(f"image {self.count} has shape {image.shape}, those before it {self.shape}")
        self.file.write(np.ascontiguousarray(image).data)
        self.count += 1

    def finish(self):
        if not self.count:
            raise UserError("the data set holds no image")
        self.file.seek(0)
        self.header()
        # numpy pads its header so that the first axis may grow in place.
        assert self.file.tell() == self.start, "the header of images.npy has outgrown its place"


def open_cache(place: Path) -> Faces | None:
    """The faces stored at `place`; None where there is nothing whole (missing, truncated, damaged, other format)."""
    try:
        about = json.loads((place / "about.json").read_text())
        images = np.load(place / "images.npy", mmap_mode="r", allow_pickle=False)
        with np.load(place / "columns.npz", allow_pickle=False) as file:
            columns = {key: file[key] for key in file.files}
        meta = {key[5:]: columns[key] for key in columns if key.startswith("meta.")}
        whole = about["format"] == FORMAT and list(images.shape) == about["shape"] and images.dtype == np.uint8
        if not whole or any(len(column) != len(images) for column in columns.values()):
            return None
        return Faces(
            name=about["name"],
            images=images,
            labels=columns["labels"],
            split=columns["split"],
            classes=tuple(about["classes"]),
            sources=columns["sources"],
            fingerprint=about["fingerprint"],
            notes=about["notes"],
            meta=meta,
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def duplicates_across(faces: Faces) -> Int64[np.ndarray, " d"]:
    """Indices of the training images that are byte-identical to a test image, ascending."""
    train, test = (np.flatnonzero(faces.split == part) for part in (TRAIN, TEST))
    middle = faces.images.shape[2] // 2

    # The middle row of pixels rules nearly all of them out without reading the rest from the disk.
    rows = [faces.images[i, 0, middle].tobytes() for i in itertools.chain(train, test)]
    shared = set(rows[: len(train)]) & set(rows[len(train) :])
    alike = [i for i, row in zip(itertools.chain(train, test), rows) if row in shared]
    hashes = {i: hashlib.sha1(faces.images[i].tobytes()).digest() for i in alike}
    tested = {hashes[i] for i in alike if faces.split[i] == TEST}
    return np.array([i for i in alike if faces.split[i] == TRAIN and hashes[i] in tested], np.int64)


def columns(rows: Iterable[tuple[str, int, int]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(file, label, split) rows as files, labels int64 [n], split int8 [n]."""
    files, labels, split = zip(*rows) if (rows := list(rows)) else ((), (), ())
    return list(files), np.array(labels, np.int64), np.array(split, np.int8)
