"""Your own faces: a folder for each class, or a CSV; any class names, grey or colour, any size.

<class>/*.jpg; or train/<class>/*.jpg, test/<class>/*.jpg and, if you like, validation/<class>/*.jpg; or a CSV with a
path (relative to the CSV), a label and, if you like, a split. Faces without a label lie in unlabelled/ beside the
classes or the splits, or have the split "unlabelled". Without a test split, `test_share` of each class, chosen by the
hash of the path, becomes one. Photographs are used whole: crop them to the face first.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fercore.data import folders, lists, pictures
from fercore.data.faces import TEST, TRAIN, UNKNOWN, UNLABELLED, VALIDATION, Source, Table
from fercore.errors import UserError

Row = tuple[str, str, int]  # file below the root, class, split
LAYOUT = "a folder per class (also below train/ and test/), or a CSV with the columns path, label and perhaps split"
ORIGIN = "see fercore/data/own.md"
# How folders and CSVs name the parts, without case. FER2013 is validated on PublicTest, or tested where that is all.
PUBLIC = "publictest"
NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "val", "dev", PUBLIC),
    TEST: ("test", "testing", "eval", "evaluation", "privatetest"),
    UNLABELLED: ("unlabelled", "unlabeled"),
}
SPLIT = {name: part for part, names in NAMES.items() for name in names}
# Of a CSV's columns, without case and blanks.
COLUMNS = {
    "path": ("path", "image", "file", "filename", "img", "image_path", "filepath"),
    "label": ("label", "class", "emotion", "expression"),
    "split": ("split", "usage", "set", "fold", "subset"),
}
NO_LABEL = ("", "nan", "none", "null", "na", "n/a", "-1", "-1.0")  # what tools write where there is none


def source(root: str | Path | None, classes: Sequence[str] | None = None, test_share: float = 0.2) -> Source:
    """`root` is the folder or the CSV; `classes` gives the order of the classes, which is else alphabetical."""
    if not 0 <= test_share < 1:
        raise UserError(f"own: test_share={test_share}; expected at least 0 and less than 1")
    if isinstance(classes, str):
        raise UserError(f"own: classes={classes!r}; expected a list of names")
    root = folders.located(root, "own", LAYOUT, ORIGIN)
    if root.is_file():
        rows, notes = of_csv(root)
        root, parts = root.parent, [root.name, *dict.fromkeys(row[0] for row in rows)]
    else:
        root, notes = unwrapped(root)
        rows, found = of_folders(root)
        notes, parts = notes | found, [folder.name for folder in folders.subfolders(root)]
    if not rows:
        raise UserError(f"own: {root} holds no image in a folder per class; expected {LAYOUT}; {ORIGIN}")
    return pictures.of_files(root, lambda: table(root, rows, classes, test_share, notes), *parts, photos=True)


def unwrapped(root: Path) -> tuple[Path, dict]:
    """The folder itself, or the one that an archive wrapped around its content: alone in it, and no class."""
    inner = root
    while len(inside := folders.subfolders(inner)) == 1 and folders.subfolders(inside[0]):
        if any(map(folders.is_picture, folders.listed(inner))) or _part(inside[0]) is not None:
            break
        inner = inside[0]
    said = folders.shown(inner.relative_to(root).as_posix())
    return inner, {} if inner == root else {"root": f"the folder {said} in it"}


def of_folders(root: Path) -> tuple[list[Row], dict]:
    """A row for each picture, and which folders are ignored. UserError for a split without class folders."""
    inside = folders.subfolders(root)
    splits = [folder for folder in inside if _part(folder) in (TRAIN, VALIDATION, TEST)]
    # Beside the classes a folder of faces without labels is none of them; beside splits others are ignored.
    read = {folder: ("", UNLABELLED) for folder in inside if _part(folder) == UNLABELLED}
    for place in splits:
        named = [folder for folder in folders.subfolders(place) if _part(folder) != UNLABELLED]
        if not named and folders.below(place):
            raise UserError(f"own: {place} holds pictures and no folder per class; expected {LAYOUT}; {ORIGIN}")
        read |= {folder: (folder.name.strip(), _part(place)) for folder in named}
    if not splits:
        read |= {folder: (folder.name.strip(), TRAIN) for folder in inside if folder not in read}
    rows, empty = [], []
    for folder, of in read.items():
        found = folders.below(folder)
        rows += [(file.relative_to(root).as_posix(), *of) for file in found]
        empty += [] if found else [folder]
    ignored = [*(folder for folder in inside if splits and folder not in (*splits, *read)), *empty]
    notes = {"ignored": ", ".join(folders.shown(folder.relative_to(root).as_posix()) for folder in ignored)}
    return _tested(rows, any(place.name.lower() == PUBLIC for place in splits)), notes if ignored else {}


def _tested(rows: list[Row], public: bool) -> list[Row]:
    """Where there is no test split, FER2013's PublicTest is it."""
    if not public or any(part == TEST for *_, part in rows):
        return rows
    return [(file, label, TEST if part == VALIDATION else part) for file, label, part in rows]


def _part(folder: Path) -> int | None:
    return SPLIT.get(folder.name.strip().lower())


def of_csv(path: Path) -> tuple[list[Row], dict]:
    """A row for each picture, and what is to be said of them. Raises UserError with the line that is off."""
    rows = lists.rows(path)
    _, header = next(rows, (0, []))
    at = lists.columns(path, header, COLUMNS)
    if at["path"] is None or at["label"] is None:
        said = ", ".join(header)[:80] or "none"
        raise UserError(f"{path}: columns {said}; expected path, label and perhaps split; {ORIGIN}")
    found: dict[str, tuple[str, int, int]] = {}
    repeated, public = 0, False
    for number, cells in rows:
        here = f"{path}, line {number}"
        file, label, said = ("" if i is None else cells[i] for i in at.values())
        part = SPLIT.get(said.lower() or "train")
        public |= said.lower() == PUBLIC
        if part is None:
            raise UserError(f"{here}: split {said!r}; expected one of {', '.join(SPLIT)}")
        if not file or (label.lower() in NO_LABEL and part != UNLABELLED):
            given = f"path {file!r}, label {label!r}"
            raise UserError(f"{here}: {given}; expected both (a face without a label has the split unlabelled)")
        row, file = ("" if part == UNLABELLED else _whole(label), part), _file(path.parent, file)
        if file in found and found[file][:2] != row:
            raise UserError(f"{here}: {file} stands at line {found[file][2]} with another label or split")
        repeated += file in found
        found.setdefault(file, (*row, number))
    notes = {"repeated_rows": repeated} if repeated else {}
    return _tested([(file, label, part) for file, (label, part, _) in found.items()], public), notes


def _file(folder: Path, name: str) -> str:
    """Where a picture lies, below the CSV's folder or anywhere; Windows' backslashes where only they lead somewhere."""
    folder = Path(os.path.abspath(folder))
    path = os.path.normpath(folder / os.path.expanduser(name))
    if "\\" in name and not os.path.exists(path):
        path = os.path.normpath(folder / name.replace("\\", "/"))
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path


def _whole(label: str) -> str:
    """A label that is a whole number as one: 1.0 and 1 are one class."""
    try:
        return str(int(float(label))) if float(label).is_integer() else label
    except (ValueError, OverflowError):
        return label


def merged(labels: Iterable[str]) -> dict[str, str]:
    """Each spelling -> the one that stands for it: classes that differ in case alone are one, as most often spelled."""
    counts: dict[str, Counter[str]] = {}
    for label in labels:
        counts.setdefault(label.casefold(), Counter())[label] += 1
    most = {folded: max(sorted(some), key=some.__getitem__) for folded, some in counts.items()}
    return {label: most[folded] for folded, some in counts.items() for label in some}


def table(root: Path, rows: list[Row], classes: Sequence[str] | None, test_share: float, notes: dict) -> Table:
    """Labels, splits and files. Raises UserError for less than two classes, and for one without a training face."""
    one = merged(name for _, name, part in rows if part != UNLABELLED)
    if classes:
        one = {name: next((c for c in classes if c.casefold() == name.casefold()), name) for name in one}
    names = tuple(classes or sorted(set(one.values())))
    if several := sorted({f"{name} is {to}" for name, to in one.items() if name != to}):
        notes = notes | {"merged": ", ".join(several)}
    for file, name, part in rows:
        if part != UNLABELLED and one[name] not in names:
            where = folders.shown(str(root / file))
            raise UserError(f"own: {where} is of the unknown class {name!r}; expected {', '.join(names)}")
    if len(names) < 2:
        said = f"one class, {names[0]}" if names else "no class"
        raise UserError(f"own: {root} has {said}; expected two or more: {LAYOUT}; {ORIGIN}")
    files, labels, split = pictures.columns(
        (file, UNKNOWN if part == UNLABELLED else names.index(one[name]), part) for file, name, part in rows
    )
    if not (split == TEST).any():
        split = _with_test(files, labels, split, test_share)
        notes = notes | {"test": f"{test_share:.0%} of each class by the hash of the path"}
    for label, name in enumerate(names):
        if not ((labels == label) & (split == TRAIN)).any():
            raise UserError(f"own: {root} holds no training image of class {name!r}")
    return Table(names, labels, split, files, notes={"test": "test"} | notes)


def _with_test(files: list[str], labels: np.ndarray, split: np.ndarray, share: float) -> np.ndarray:
    """The split with this share of each class's training faces turned to test, by the hash of the path."""
    hashes = np.array([hashlib.sha256(os.fsencode(file)).hexdigest() for file in files])
    split = split.copy()
    for label in range(labels.max() + 1):
        pool = np.flatnonzero((labels == label) & (split == TRAIN))
        split[pool[np.argsort(hashes[pool])][: round(share * len(pool))]] = TEST
    return split
