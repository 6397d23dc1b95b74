"""FER2013 (Goodfellow et al. 2013): 48 x 48 grey faces as text in a CSV, or as a folder per class.

fer2013.csv has the columns emotion, pixels, Usage; icml_face_data.csv the same in another order, with blanks
before the names; Kaggle's train.csv has no Usage. Each may be packed (.gz .bz2 .xz .zip .tar.gz) or lie in a folder of
its own. Tested on PrivateTest where the file has it (PublicTest is then the validation split), else on PublicTest, else
on a tenth of the rows: notes["test"] says which. The folder layout is Kaggle's: train/<class>/*.jpg and
test/<class>/*.jpg, where test holds PublicTest and PrivateTest together; validation/ beside test/, or in its place.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fercore.data import expressions, folders, lists, pictures
from fercore.data.faces import TEST, TRAIN, VALIDATION, Source, Table
from fercore.errors import UserError, reason

LAYOUT = (
    "fer2013.csv, icml_face_data.csv or train.csv (also .gz .bz2 .xz .zip, or fer2013.tar.gz), or the folders "
    "train/<class>/ and test/<class>/"
)
ORIGIN = "get it from the Kaggle challenge in representation learning: facial expression recognition (2013)"
NAMES = ("fer2013.csv", "icml_face_data.csv", "train.csv")
PACKS = ("", ".gz", ".bz2", ".xz", ".zip")
FILES = [*(name + pack for name in NAMES for pack in PACKS), "fer2013.zip", "fer2013.tar.gz"]
COLUMNS = ("emotion", "pixels", "Usage")
USAGE = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
BY_NAME = {name.lower(): name for name in USAGE}
LABELS = {str(index): index for index in range(7)}
FOLDERS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
TENTH = 10  # of the rows of a file without test rows, by the hash of the pixels
SIDE = 48


def source(root: str | Path | None) -> Source:
    """`root` is the CSV or a folder that holds it, or that of train/ and test/; either may lie one folder down."""
    path, left = folders.located(root, "fer2013", LAYOUT, ORIGIN), lambda table: Counter()
    if path.is_dir():
        if found := file(path, FILES):
            path = found
            left = lambda table: folders.left_out(path.parent, {path.name})
        elif split := [place for place in places(path) if len(parts(place)) > 1 and "train" in parts(place)]:
            return pictures.of_files(split[0], lambda: of_folders(split[0]), *parts(split[0]))
        else:
            raise UserError(f"fer2013: {path} has another layout; expected {LAYOUT}; {ORIGIN}")
    stamp = pictures.stamp(folders.contents(path.parent, path.name))
    return Source(stamp, lambda put, size: read(path, put), left)


def places(root: Path) -> list[Path]:
    """Where its files may lie."""
    return [root, *folders.subfolders(root)]


def file(root: Path, names: Iterable[str]) -> Path | None:
    """The first of these names that is there, in the root or one folder down."""
    return next((place / name for name in names for place in places(root) if (place / name).is_file()), None)


def parts(root: Path) -> list[str]:
    """The folders of a split that are there."""
    return [name for name in FOLDERS if (root / name).is_dir()]


def of_folders(root: Path) -> Table:
    """Labels, splits and files of the folders; the validation faces are the test faces where there are no others."""
    rows, there = [], parts(root)
    for name in there:
        part = TEST if name == "validation" and "test" not in there else FOLDERS[name]
        rows += pictures.class_folders(root, root / name, part)
    files, labels, split = pictures.columns(rows)
    whole = "PublicTest and PrivateTest (folder test)" if "validation" not in there else f"folder {there[-1]}"
    return Table(expressions.EXPRESSIONS, labels, split, files, notes={"test": whole})


def read(path: Path, put: Callable) -> Table:
    """One pass over the CSV."""
    table, tenth = published(path, put)
    return replace(table, notes={"test": tested(table.split, tenth)})


def tested(split: np.ndarray, tenth: np.ndarray) -> str:
    """Choose the test rows, in place, and say which they are."""
    if (split == TEST).any():
        return "PrivateTest"
    split[split == VALIDATION] = TEST
    if (split == TEST).any():
        return "PublicTest"
    split[tenth] = TEST
    return "one row in ten, by the hash of its pixels (no test rows in the file)"


def published(path: Path, put: Callable) -> tuple[Table, np.ndarray]:
    """One pass over the CSV: its rows, split by Usage, and which of them are a tenth by the hash of their pixels.

    The fingerprint is of the three columns, however ordered and packed.
    """
    labels, split, tenth, content = [], [], [], hashlib.sha256()
    for row, (emotion, usage, pixels) in enumerate(tqdm(cells(path), "faces", unit="img", delay=1, leave=False), 1):
        word = expressions.spelled(emotion)
        label = str(expressions.ORDERS["fer2013"].index(word)) if word else emotion.removesuffix(".0")
        named = BY_NAME.get(usage.lower())
        if named is None or label not in LABELS:
            expected = f"0-6 and {', '.join(USAGE)}"
            raise UserError(f"{path}: row {row} has emotion {emotion!r}, Usage {usage!r}; expected {expected}")
        labels.append(LABELS[label])
        split.append(USAGE[named])
        tenth.append(zlib.crc32(pixels.encode()) % TENTH == 0)
        content.update(f"{label},{named},{pixels}\n".encode())
        put(image(pixels, path, row))
    table = Table(
        expressions.EXPRESSIONS,
        expressions.decode("fer2013", np.array(labels, np.int64)),
        np.array(split, np.int8),
        [f"{path.name}:{row}" for row in range(1, len(labels) + 1)],
        fingerprint=content.hexdigest()[:16],
    )
    return table, np.array(tenth, bool)


def cells(path: Path) -> Iterator[tuple[str, str, str]]:
    """(emotion, Usage, pixels) of each row, whatever their order in the file, as a stream."""
    for emotion, pixels, usage in rows(path, COLUMNS, ORIGIN, optional="Usage"):
        pixels = listed(pixels) if "," in pixels or "." in pixels else pixels
        yield emotion, "Training" if usage is None else usage, pixels


def rows(
    path: Path, columns: Sequence[str], origin: str, *, optional: str = "", names: Sequence[str] = NAMES
) -> Iterator[list[str | None]]:
    """These columns of each row of a CSV, whatever its order and packing, as a stream; None for `optional` without one.

    `names`: of the CSV in an archive. Raises UserError, with `origin`, where it is damaged or has other columns.
    """
    try:
        found = lists.rows(path, lambda path: unpacked(path, names))
        _, header = next(found, (0, []))
        at = lists.columns(path, header, {name: ("".join(name.lower().split()),) for name in columns})
        if any(i is None and name != optional for name, i in at.items()):
            said = ", ".join(header)[:60] or "none"
            raise UserError(f"{path}: columns {said}; expected {', '.join(columns)}; {origin}")
        for _, row in found:
            yield [None if i is None else row[i] for i in at.values()]
    except (EOFError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError) as error:
        raise UserError(f"{path} is damaged or cut short ({reason(error)}); fetch it again: {origin}") from None


def listed(pixels: str) -> str:
    """Pixels that were written as a list, or as floats, as FER2013 has them; unchanged where they are no numbers."""
    try:
        return " ".join(f"{float(value):g}" for value in pixels.strip("[]").replace(",", " ").split())
    except ValueError:
        return pixels


def unpacked(path: Path, names: Sequence[str] = NAMES) -> io.BufferedIOBase:
    """The CSV as bytes, whatever it is packed in. Raises UserError where an archive holds none or several."""
    if path.name.endswith(".tar.gz"):
        pack = tarfile.open(path)  # noqa: SIM115  (the stream needs it open)
        inside = {member.name: member for member in pack if member.isfile()}
        return io.BufferedReader(pack.extractfile(inside[_only(path, inside, names)]))
    if path.suffix == ".zip":
        pack = zipfile.ZipFile(path)
        return io.BufferedReader(pack.open(_only(path, pack.namelist(), names)))
    return {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)(path, "rb")


def _only(path: Path, inside: Iterable[str], names: Sequence[str]) -> str:
    """The CSV of an archive: the one with a known name, or the only one."""
    tables = [name for name in inside if name.endswith(".csv") and all(map(folders.ours, name.split("/")))]
    for known in names:
        if len(found := [name for name in tables if name.rpartition("/")[2] == known]) == 1:
            return found[0]
    if len(tables) != 1:
        raise UserError(f"{path}: expected one CSV in it, found {len(tables)}")
    return tables[0]


def image(pixels: str, path: Path, row: int) -> np.ndarray | UserError:
    """48 x 48 grey values as uint8 [1, 48, 48]."""
    try:
        values = np.fromstring(pixels, np.int16, sep=" ")
    except ValueError:
        values = np.empty(0)
    if len(values) != SIDE * SIDE or values.min() < 0 or values.max() > 255:
        return UserError(f"{path}: row {row} does not hold {SIDE * SIDE} grey values 0-255; fetch the file again")
    return values.astype(np.uint8).reshape(1, SIDE, SIDE)
