"""FER2013 (Goodfellow et al. 2013): 48 x 48 grey faces as text in a CSV, or as a folder per class.

fer2013.csv has the columns emotion, pixels, Usage; icml_face_data.csv the same in another order, with blanks
before the names; each may be packed (.gz .bz2 .xz .zip). Tested on PrivateTest where the file has it (PublicTest
is then the validation split), else on PublicTest: notes["test"] says which. The folder layout is Kaggle's:
train/<class>/*.jpg and test/<class>/*.jpg, where test holds PublicTest and PrivateTest together.
"""

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fercore.data import expressions, pictures
from fercore.data.faces import TEST, TRAIN, VALIDATION, Source, Table
from fercore.errors import UserError

LAYOUT = "fer2013.csv or icml_face_data.csv (also .gz .bz2 .xz .zip), or the folders train/<class>/ and test/<class>/"
ORIGIN = "get it from the Kaggle challenge in representation learning: facial expression recognition (2013)"
FILES = [name + pack for name in ("fer2013.csv", "icml_face_data.csv") for pack in ("", ".gz", ".bz2", ".xz", ".zip")]
USAGE = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
LABELS = {str(index): index for index in range(7)}
SIDE = 48


def source(root: str | Path | None) -> Source:
    """`root` is the CSV or a folder that holds it, or the folder of train/ and test/."""
    path = pictures.located(root, "fer2013", LAYOUT, ORIGIN)
    if path.is_dir():
        if found := [path / name for name in FILES if (path / name).is_file()]:
            path = found[0]
        elif (path / "train").is_dir() and (path / "test").is_dir():
            return pictures.of_files(path, pictures.stamp(path, "train", "test"), lambda: folders(path))
        else:
            raise UserError(f"fer2013: {path} has another layout; expected {LAYOUT}; {ORIGIN}")
    return Source(pictures.stamp(path.parent, path.name), lambda put, size: read(path, put))


def folders(root: Path) -> tuple[Table, list[str]]:
    rows = []
    for part, split in (("train", TRAIN), ("test", TEST)):
        rows += pictures.class_folders(root, root / part, split, expressions.EXPRESSIONS, expressions.spelled)
    files, labels, split = pictures.columns(rows)
    notes = {"test": "PublicTest and PrivateTest (folder test)"}
    return Table(expressions.EXPRESSIONS, labels, split, files, notes=notes), files


def read(path: Path, put: Callable) -> Table:
    """One pass over the CSV. The fingerprint is of the three columns, however ordered and packed."""
    labels, split, content = [], [], hashlib.sha256()
    for row, (emotion, usage, pixels) in enumerate(tqdm(cells(path), "faces", unit="img", delay=1, leave=False), 1):
        if usage not in USAGE or emotion not in LABELS:
            expected = f"0-6 and {', '.join(USAGE)}"
            raise UserError(f"{path}: row {row} has emotion {emotion!r}, Usage {usage!r}; expected {expected}")
        labels.append(LABELS[emotion])
        split.append(USAGE[usage])
        content.update(f"{emotion},{usage},{pixels}\n".encode())
        put(image(pixels, path, row))
    split = np.array(split, np.int8)
    private = bool((split == TEST).any())
    if not private:
        split[split == VALIDATION] = TEST
    return Table(
        expressions.EXPRESSIONS,
        expressions.decode("fer2013", np.array(labels, np.int64)),
        split,
        [f"{path.name}:{row}" for row in range(1, len(labels) + 1)],
        content.hexdigest()[:16],
        {"test": "PrivateTest" if private else "PublicTest"},
    )


def cells(path: Path) -> Iterator[tuple[str, str, str]]:
    """(emotion, Usage, pixels) of each row, whatever their order in the file, as a stream."""
    try:
        with unpacked(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as lines:
            rows = csv.reader(lines)
            header = [name.strip() for name in next(rows, [])]
            if not {"emotion", "Usage", "pixels"} <= set(header):
                raise UserError(f"{path}: columns {header[:5]}; expected emotion, pixels, Usage; {ORIGIN}")
            emotion, usage, pixels = (header.index(name) for name in ("emotion", "Usage", "pixels"))
            for number, row in enumerate(rows, 1):
                if len(row) != len(header):
                    raise UserError(f"{path}: row {number} has {len(row)} cells, expected {len(header)}; {ORIGIN}")
                yield row[emotion].strip(), row[usage].strip(), row[pixels]
    except (OSError, EOFError, ValueError, csv.Error, zipfile.BadZipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); fetch it again: {ORIGIN}") from None


def unpacked(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".zip":
        pack = zipfile.ZipFile(path)
        names = [name for name in pack.namelist() if name.endswith(".csv") and not name.startswith("__MACOSX/")]
        if len(names) != 1:
            raise UserError(f"{path}: expected one CSV in it, found {len(names)}")
        return pack.open(names[0])
    return {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)(path, "rb")


def image(pixels: str, path: Path, row: int) -> np.ndarray | UserError:
    """48 x 48 grey values as uint8 [1, 48, 48]."""
    try:
        values = np.fromstring(pixels, np.int16, sep=" ")
    except ValueError:
        values = np.empty(0)
    if len(values) != SIDE * SIDE or values.min() < 0 or values.max() > 255:
        return UserError(f"{path}: row {row} does not hold {SIDE * SIDE} grey values 0-255; fetch the file again")
    return values.astype(np.uint8).reshape(1, SIDE, SIDE)
