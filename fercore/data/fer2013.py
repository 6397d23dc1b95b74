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
from collections.abc import Callable, Iterable, Iterator
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
FILES = [
    *(name + pack for name in NAMES for pack in ("", ".gz", ".bz2", ".xz", ".zip")),
    *("fer2013.zip", "fer2013.tar.gz"),
]
COLUMNS = {name: (name.lower(),) for name in ("emotion", "pixels", "Usage")}
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
        places = [path, *folders.subfolders(path)]
        if found := [place / name for place in places for name in FILES if (place / name).is_file()]:
            path = found[0]
            left = lambda table: folders.left_out(path.parent, {path.name})
        elif split := [place for place in places if len(parts(place)) > 1 and "train" in parts(place)]:
            return pictures.of_files(split[0], lambda: of_folders(split[0]), *parts(split[0]))
        else:
            raise UserError(f"fer2013: {path} has another layout; expected {LAYOUT}; {ORIGIN}")
    stamp = pictures.stamp(folders.contents(path.parent, path.name))
    return Source(stamp, lambda put, size: read(path, put), left)


def parts(root: Path) -> list[str]:
    """The folders of a split that are there."""
    return [name for name in FOLDERS if (root / name).is_dir()]


def of_folders(root: Path) -> Table:
    """Labels, splits and files of the folders; the validation faces are the test faces where there are no others."""
    rows, there = [], parts(root)
    for name in there:
        part = TEST if name == "validation" and "test" not in there else FOLDERS[name]
        rows += pictures.class_folders(root, root / name, part, expressions.EXPRESSIONS, expressions.spelled)
    files, labels, split = pictures.columns(rows)
    whole = "PublicTest and PrivateTest (folder test)" if "validation" not in there else f"folder {there[-1]}"
    return Table(expressions.EXPRESSIONS, labels, split, files, notes={"test": whole})


def read(path: Path, put: Callable) -> Table:
    """One pass over the CSV. The fingerprint is of the three columns, however ordered and packed."""
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
    split, tested = np.array(split, np.int8), "PrivateTest"
    if not (split == TEST).any():
        tested = "PublicTest"
        split[split == VALIDATION] = TEST
    if not (split == TEST).any():
        tested = "one row in ten, by the hash of its pixels (no test rows in the file)"
        split[tenth] = TEST
    return Table(
        expressions.EXPRESSIONS,
        expressions.decode("fer2013", np.array(labels, np.int64)),
        split,
        [f"{path.name}:{row}" for row in range(1, len(labels) + 1)],
        fingerprint=content.hexdigest()[:16],
        notes={"test": tested},
    )


def cells(path: Path) -> Iterator[tuple[str, str, str]]:
    """(emotion, Usage, pixels) of each row, whatever their order in the file, as a stream."""
    try:
        rows = lists.rows(path, unpacked)
        _, header = next(rows, (0, []))
        at = lists.columns(path, header, COLUMNS)
        if at["emotion"] is None or at["pixels"] is None:
            raise UserError(
                f"{path}: columns {', '.join(header)[:60] or 'none'}; expected {', '.join(COLUMNS)}; {ORIGIN}"
            )
        for _, row in rows:
            emotion, pixels, usage = ("Training" if i is None else row[i] for i in at.values())
            yield emotion, usage, listed(pixels) if "," in pixels or "." in pixels else pixels
    except (EOFError, ValueError, zlib.error, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError) as error:
        raise UserError(f"{path} is damaged or cut short ({reason(error)}); fetch it again: {ORIGIN}") from None


def listed(pixels: str) -> str:
    """Pixels that were written as a list, or as floats, as FER2013 has them; unchanged where they are no numbers."""
    try:
        return " ".join(f"{float(value):g}" for value in pixels.strip("[]").replace(",", " ").split())
    except ValueError:
        return pixels


def unpacked(path: Path) -> io.BufferedIOBase:
    """The CSV as bytes, whatever it is packed in. Raises UserError where an archive holds none or several."""
    if path.name.endswith(".tar.gz"):
        pack = tarfile.open(path)  # noqa: SIM115  (the stream needs it open)
        inside = {member.name: member for member in pack if member.isfile()}
        return io.BufferedReader(pack.extractfile(inside[_only(path, inside)]))
    if path.suffix == ".zip":
        pack = zipfile.ZipFile(path)
        return io.BufferedReader(pack.open(_only(path, pack.namelist())))
    return {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)(path, "rb")


def _only(path: Path, names: Iterable[str]) -> str:
    """The CSV of an archive: the one with a known name, or the only one."""
    tables = [name for name in names if name.endswith(".csv") and all(map(folders.ours, name.split("/")))]
    for known in NAMES:
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
