"""Image files on the disk: which there are, when they change, and how they become arrays."""

import io
import json
import os
import stat
import struct
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from fercore.data.faces import UNKNOWN, UNLABELLED, Source, Table, digest
from fercore.errors import UserError, reason

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff", ".jp2"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
HEIC = "HEIC, which Pillow does not read: convert it to JPEG"
SYSTEM = ("__macosx", "@eadir", "thumbs.db", "desktop.ini", "$recycle.bin", "lost+found")  # not the user's own files
LINE_ENDS = ("\r\n", "\r")
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
BACKDROP = 127  # grey: behind transparent pixels, and beside photographs that are not square
ORIENTATION = 0x0112  # the EXIF tag: a telephone held upright stores a picture that lies on its side
TURNS = {  # what it says, from 2 to 8
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LISTS = "`python -m fercore data NAME ROOT` lists all such"
LEAVE = f"fetch it again or leave it out ({LISTS})"
LARGEST = 1024  # px: longer sides are resized even where all photographs share them, or a phone's would fill the disk


def located(root: str | Path | None, name: str, layout: str, origin: str) -> Path:
    """The data set's root as a path that exists; UserError with its layout and origin where it does not."""
    if root is None:
        raise UserError(f"{name}: no data root given; expected {layout}; {origin}")
    path = Path(root).expanduser()
    if not path.exists():
        raise UserError(f"{name}: {root} does not exist; expected {layout}; {origin}")
    return path


def ours(name: str) -> bool:
    """Whether a file or folder of this name is neither hidden nor the operating system's."""
    return not name.startswith(".") and name.lower() not in SYSTEM


def listed(folder: Path) -> list[os.DirEntry]:
    """What lies in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one that does not lead back to where it lies."""
    if not entry.is_dir():
        return False
    if not entry.is_symlink():
        return True
    here, there = (Path(os.path.realpath(place)) for place in (Path(entry.path).parent, entry.path))
    return not here.is_relative_to(there)


def walk(folder: Path, every: bool = False) -> Iterator[os.DirEntry]:
    """The files below a folder, sorted by name; links are followed, but for those that lead back above themselves.

    `every`: these too, and what is hidden or the system's.
    """
    for entry in listed(folder):
        if every or ours(entry.name):
            if is_folder(entry):
                yield from walk(Path(entry.path), every)
            elif every or not entry.is_dir():
                yield entry


def is_picture(entry: os.DirEntry) -> bool:
    """Whether its name says so; also of a link to nowhere, which is then listed as unreadable."""
    return entry.name.lower().endswith(SUFFIXES) and (entry.is_file() or not os.path.exists(entry.path))


def below(path: Path) -> list[Path]:
    """The image files below a folder, sorted by path."""
    return sorted(Path(entry.path) for entry in walk(path) if is_picture(entry))


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
    for folder in empty(root):
        why[f"the folder {shown(folder.relative_to(root).as_posix())} is empty"] += 1
    return why


def _reason(entry: os.DirEntry, file: Path) -> str:
    suffix = file.suffix.lower()
    if not all(map(ours, file.parts)):
        return "hidden, or the operating system's"
    if entry.is_dir():
        return "a link that leads back above itself"
    if os.path.exists(entry.path) and not stat.S_ISREG(entry.stat().st_mode):
        return "no file but a pipe or a device"
    if suffix in (".heic", ".heif"):
        return HEIC
    if suffix not in SUFFIXES:
        return f"no picture: {suffix or 'no ending'}"
    return f"a picture in no folder that is read: {shown(file.parent.as_posix())}"


def empty(root: Path) -> list[Path]:
    """The folders directly below the root, and below its folders, in which there is no file at all."""
    places = subfolders(root)
    places += [inner for place in places for inner in subfolders(place)]
    return [place for place in places if next(walk(place, every=True), None) is None]


def shown(name: str) -> str:
    """A path as it can be printed: bytes that are not UTF-8, and line ends, are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace").replace("\n", "\\n").replace("\r", "\\r")


def lines(path: Path) -> list[str]:
    """The lines of a list file: UTF-8 or UTF-16, with or without a byte order mark, any line ends; none is blank.

    Raises UserError where it is missing or in another encoding.
    """
    try:
        content = text(path.read_bytes())
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 or UTF-16 ({reason(error)})") from None
    return [line for line in content.split("\n") if line.strip()]


def text(content: bytes) -> str:
    """Bytes of a text file as a string with plain line ends. Raises UnicodeError."""
    marks = (b"\xff\xfe", b"\xfe\xff")
    decoded = content.decode("utf-16" if content.startswith(marks) else "utf-8-sig")
    for end in LINE_ENDS:
        decoded = decoded.replace(end, "\n")
    return decoded


def class_folders(
    root: Path, place: Path, split: int, classes: tuple[str, ...], spelled: Callable[[str], str | None]
) -> Iterator[tuple[str, int, int]]:
    """(file below root, label, split) of every image in `place`/<class>/; UserError for a folder of no class."""
    for path in subfolders(place):
        if (name := spelled(path.name)) not in classes:
            raise UserError(f"{path}: unknown class {path.name!r}; expected {', '.join(classes)}")
        for file in below(path):
            yield file.relative_to(root).as_posix(), classes.index(name), split


def joined(source: Source, folder: str | Path) -> Source:
    """The same, and behind it the pictures below this folder, without labels, in the size and colours of the others."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"unlabelled: {folder} is no folder; expected one with pictures in it, at any depth")
    files = [file.relative_to(folder).as_posix() for file in below(folder)]
    if not files:
        raise UserError(f"unlabelled: {folder} holds no picture ({', '.join(SUFFIXES)})")

    def read(put: Callable, size: int | None) -> Table:
        shape: list[tuple[int, ...]] = []

        def note(image: np.ndarray | UserError):
            if not isinstance(image, UserError):
                shape[:] = [image.shape]
            put(image)

        table = source.read(note, size)
        channels, side, wide = shape[0] if shape else (3, size, size)
        if side != wide:
            raise UserError(f"unlabelled: the labelled faces are {wide} x {side}; expected square ones")
        hashes = []
        for image, content in decode(folder, files, None, side, channels):
            put(image)
            hashes.append(content)
        n = len(files)
        return replace(
            table,
            labels=np.concatenate([table.labels, np.full(n, UNKNOWN)]),
            split=np.concatenate([table.split, np.full(n, UNLABELLED, np.int8)]),
            sources=[*table.sources, *(f"unlabelled/{file}" for file in files)],
            fingerprint=digest(json.dumps([table.fingerprint, *zip(files, hashes)]).encode()),
            meta={key: np.concatenate([of, np.zeros((n, *of.shape[1:]), of.dtype)]) for key, of in table.meta.items()},
        )

    return Source(digest(source.stamp.encode(), stamp(folder, ".").encode()), read, source.root)


def columns(rows: Iterable[tuple[str, int, int]]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(file, label, split) rows as files, labels int64 [n], split int8 [n]."""
    files, labels, split = zip(*rows) if (rows := list(rows)) else ((), (), ())
    return list(files), np.array(labels, np.int64), np.array(split, np.int8)


def stamp(root: Path, *parts: str, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """Names, sizes and times of the files `parts` of root and, in folders, of all files with these suffixes.

    Both times: a file that was put in another's place may have its size and its date, but not the moment of its change.
    """
    found = []

    def note(name: str, path: str):
        try:
            now = os.stat(path)
            found.append((name, now.st_size, now.st_mtime_ns, now.st_ctime_ns))
        except OSError:
            found.append((name, None))

    for part in parts:
        path = root / part
        if path.is_dir():
            for entry in walk(path):
                if entry.name.lower().endswith(suffixes):
                    note(Path(entry.path).relative_to(root).as_posix(), entry.path)
        else:
            note(part, str(path))
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
        hashes = []
        for image, content in decode(root, files, boxes, resized, channels):
            put(image)
            hashes.append(content)
        content = json.dumps([*zip(rows.sources, hashes, rows.labels.tolist(), rows.split.tolist())])
        return replace(rows, fingerprint=digest(content.encode()), resized=resized)

    return Source(key, read, root)


def common_shape(
    root: Path, files: list[str], boxes: Int[np.ndarray, "n 4"] | None
) -> tuple[tuple[int, int] | None, int]:
    """((width, height) of all faces, or None where they differ or are large; channels), from the headers alone.

    Whole photographs are made square, so theirs is the longer side, twice.
    """

    def header(i: int) -> tuple:
        with photograph(root / files[i]) as (image, _):
            if boxes is None:
                return (max(image.size),) * 2, image.mode in GREY
            left, top, right, bottom = clipped(boxes[i], image)
            return (right - left, bottom - top), image.mode in GREY

    sizes, grey = zip(*parallel(header, len(files), "headers"))
    common = len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST
    return (sizes[0] if common else None), 1 if all(grey) else 3


def decode(
    root: Path, files: list[str], boxes: Int[np.ndarray, "n 4"] | None, size: int | None, channels: int
) -> Iterator[tuple[UInt8[np.ndarray, "c h w"] | UserError, str]]:
    """Each face as uint8 [c, h, w], with the hash of its file; a UserError in place of an unreadable one.

    A whole photograph is turned upright and made square by grey on both sides; a box is cut out as it is.
    """

    def one(i: int):
        hashed = ""
        try:
            with photograph(root / files[i]) as (image, content):
                hashed = digest(content)
                upright = image if boxes is not None else turned(image)
                image = eight_bits(upright if boxes is None else image.crop(clipped(boxes[i], image)), channels)
                if boxes is None:
                    image = square(image)
                if size is not None:
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
                return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1), hashed
        except UserError as error:
            return error, hashed

    yield from parallel(one, len(files), "faces")


def turned(image: Image.Image) -> Image.Image:
    """Upright, as EXIF says. A tag of another kind than a number from 1 to 8 says nothing."""
    said = image.getexif().get(ORIENTATION)
    turn = TURNS.get(said) if isinstance(said, int) else None
    return image if turn is None else image.transpose(turn)


def eight_bits(image: Image.Image, channels: int) -> Image.Image:
    """Grey ("L") for one channel, else RGB. Transparent pixels show the grey BACKDROP.

    16 bits are divided by 257; a float from 0 to 1 is multiplied by 255. Raises ValueError for numbers that have no one
    reading: floats beyond that, and 32-bit integers that are not of 16 bits.
    """
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_scaled(np.asarray(image), image.mode, image.format))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (BACKDROP,) * 3 + (255,))
        image = Image.alpha_composite(backdrop, image)
    return image.convert("L" if channels == 1 else "RGB")


def _scaled(values: np.ndarray, mode: str, format: str | None) -> UInt8[np.ndarray, "h w"]:
    """Grey values of more than 8 bits, as 8 bits."""
    low, high = (float(limit) for limit in (values.min(), values.max()))
    if mode == "F":
        if not (low >= 0 and high <= 1):
            raise ValueError(f"floats from {low:g} to {high:g}; expected 0 to 1")
        return np.round(255 * values).astype(np.uint8)
    declared = mode != "I" or format == "PNG"  # 16 bits: Pillow may widen them
    if not declared and not (low >= 0 and 255 < high <= 65535):
        raise ValueError(f"32-bit integers from {low:g} to {high:g}; expected 8 or 16 bits")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def square(image: Image.Image) -> Image.Image:
    """The picture in the middle of a square of the grey BACKDROP."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    out = Image.new(image.mode, (side, side), (BACKDROP,) * len(image.getbands()))
    out.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return out


def clipped(box: Int[np.ndarray, " 4"], image: Image.Image) -> tuple[int, int, int, int]:
    """The part of a box (left, top, right, bottom) that lies on the photograph."""
    left, top, right, bottom = (int(value) for value in box)
    inside = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise ValueError(f"the box {left, top, right, bottom} lies outside a photograph of {image.size}")
    return inside


@contextmanager
def photograph(path: Path) -> Iterator[tuple[Image.Image, bytes]]:
    """The image at `path`, opened, and its file's bytes. What goes wrong in the block is a UserError that names it."""
    try:
        if not path.is_file() and path.exists():
            raise OSError("no file but a folder, a pipe or a device")
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            yield image, content
    except FileNotFoundError:
        raise UserError(f"{shown(str(path))} is missing; fetch it again ({LISTS})") from None
    except UnidentifiedImageError:
        raise UserError(f"{shown(str(path))} is unreadable (no picture that Pillow knows); {LEAVE}") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        said = f"{shown(str(path))} is unreadable ({shown(reason(error))})"
        raise UserError(f"{said}; {LEAVE}") from None


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
