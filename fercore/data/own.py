"""Your own faces: a folder for each class, or a CSV; any class names, grey or colour, any size.

<class>/*.jpg; or train/<class>/*.jpg, test/<class>/*.jpg and, if you like, validation/<class>/*.jpg; or a CSV with a
path (relative to the CSV), a label and, if you like, a split. Faces without a label lie in unlabelled/ beside the
classes or the splits, or have the split "unlabelled". Without a test split, `test_share` of each class, chosen by the
hash of the path, becomes one. Photographs are used whole: crop them to the face first.
"""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fercore.data import pictures
from fercore.data.faces import TEST, TRAIN, UNKNOWN, UNLABELLED, VALIDATION, Source, Table
from fercore.errors import UserError, reason

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
    root, notes = pictures.located(root, "own", LAYOUT, ORIGIN), {}
    if root.is_file():
        rows, notes = of_csv(root)
        key = pictures.stamp(root.parent, root.name, *dict.fromkeys(row[0] for row in rows))
        root = root.parent
    else:
        inner = unwrapped(root)
        if inner != root:
            notes["root"] = f"the folder {pictures.shown(inner.relative_to(root).as_posix())} in it"
        root, rows = inner, of_folders(inner)
        key = pictures.stamp(root, *(folder.name for folder in pictures.subfolders(root)))
    if not rows:
        raise UserError(f"own: {root} holds no image in a folder per class; expected {LAYOUT}; {ORIGIN}")
    return pictures.of_files(root, key, lambda: table(root, rows, classes, test_share, notes))


def unwrapped(root: Path) -> Path:
    """The folder itself, or the one that an archive wrapped around its content: alone in it, and no class."""
    while len(inside := pictures.subfolders(root)) == 1 and pictures.subfolders(inside[0]):
        if any(map(pictures.is_picture, pictures.listed(root))) or _part(inside[0]) is not None:
            break
        root = inside[0]
    return root


def of_folders(root: Path) -> list[tuple[str, str, int]]:
    """(file, class, split) of each picture. Raises UserError for a split that has no folder per class."""
    inside = pictures.subfolders(root)
    splits = [(folder, _part(folder)) for folder in inside if _part(folder) in (TRAIN, VALIDATION, TEST)]
    # Beside the classes a folder of faces without labels is none of them; beside splits others are left out.
    places = splits or [(root, TRAIN)]
    rows = [_row(root, file, "", UNLABELLED) for f in inside if _part(f) == UNLABELLED for file in pictures.below(f)]
    for place, part in places:
        folders = [folder for folder in pictures.subfolders(place) if _part(folder) != UNLABELLED]
        if splits and not folders and pictures.below(place):
            raise UserError(f"own: {place} holds pictures and no folder per class; expected {LAYOUT}; {ORIGIN}")
        rows += [_row(root, file, folder.name, part) for folder in folders for file in pictures.below(folder)]
    return _tested(rows, any(folder.name.lower() == PUBLIC for folder, _ in splits))


def _tested(rows: list[tuple[str, str, int]], public: bool) -> list[tuple[str, str, int]]:
    """Where there is no test split, FER2013's PublicTest is it."""
    if not public or any(part == TEST for *_, part in rows):
        return rows
    return [(file, label, TEST if part == VALIDATION else part) for file, label, part in rows]


def _part(folder: Path) -> int | None:
    return SPLIT.get(folder.name.strip().lower())


def _row(root: Path, file: Path, label: str, part: int) -> tuple[str, str, int]:
    return file.relative_to(root).as_posix(), label.strip(), part


def of_csv(path: Path) -> tuple[list[tuple[str, str, int]], dict]:
    """(file, class, split) of each row, and what is to be said of them. Raises UserError with the line that is off."""
    try:
        content = pictures.text(path.read_bytes())
        lines = content.split("\n")
        rows = list(csv.reader(lines, delimiter=_delimiter(lines[0]), skipinitialspace=True))
    except (UnicodeError, csv.Error, OSError) as error:
        raise UserError(f"{path} is no CSV in UTF-8 or UTF-16 ({reason(error)}); expected {LAYOUT}") from None
    at = _columns(path, rows[0] if rows else [])
    found: dict[str, tuple[str, int, int]] = {}
    repeated, public = 0, False
    for number, cells in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        here = f"{path}, line {number}"
        if any(cell.strip() for cell in cells[len(rows[0]) :]):
            raise UserError(f"{here}: {len(cells)} cells, the header has {len(rows[0])}; quote a name with a comma")
        file, label, said = (cells[i].strip() if i is not None and i < len(cells) else "" for i in at)
        part = SPLIT.get((said or "train").lower())
        public |= said.lower() == PUBLIC
        if part is None:
            raise UserError(f"{here}: split {said!r}; expected one of {', '.join(SPLIT)}")
        if not file or (label.lower() in NO_LABEL and part != UNLABELLED):
            given = f"path {file!r}, label {label!r}"
            raise UserError(f"{here}: {given}; expected both (a face without a label has the split unlabelled)")
        row = _whole(label) if part != UNLABELLED else "", part
        file = _file(path.parent, file)
        if file in found:
            if found[file][:2] != row:
                raise UserError(f"{here}: {file} stands at line {found[file][2]} with another label or split")
            repeated += 1
            continue
        found[file] = (*row, number)
    notes = {"repeated_rows": repeated} if repeated else {}
    return _tested([(file, label, part) for file, (label, part, _) in found.items()], public), notes


def _delimiter(header: str) -> str:
    """The first of , ; and tab that the header holds."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _columns(path: Path, header: Sequence[str]) -> tuple[int, int, int | None]:
    """Where path, label and split stand. Raises UserError where one is missing, or two columns could be it."""
    names = ["".join(cell.lower().split()) for cell in header]
    at = {}
    for wanted, known in COLUMNS.items():
        places = [i for i, name in enumerate(names) if name in known]
        if len(places) > 1:
            raise UserError(f"{path}: columns {', '.join(header[i] for i in places)}: which is the {wanted}?")
        if not places and wanted != "split":
            said = ", ".join(header)[:80] or "none"
            raise UserError(f"{path}: columns {said}; expected path, label and perhaps split; {ORIGIN}")
        at[wanted] = places[0] if places else None
    return at["path"], at["label"], at["split"]


def _file(folder: Path, name: str) -> str:
    """The path as written, relative to the CSV; Windows' backslashes where only they lead somewhere."""
    name = os.path.expanduser(name)
    turned = name.replace("\\", "/")
    return os.path.normpath(turned if not (folder / name).exists() else name)


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


def table(
    root: Path, rows: list[tuple[str, str, int]], classes: Sequence[str] | None, test_share: float, notes: dict
) -> tuple[Table, list[str]]:
    """Labels, splits and files. Raises UserError for less than two classes, and for one without a training face."""
    one = merged(name for _, name, part in rows if part != UNLABELLED)
    if classes:
        one = {name: next((c for c in classes if c.casefold() == name.casefold()), name) for name in one}
    names = tuple(classes or sorted(set(one.values())))
    if several := sorted({f"{name} is {to}" for name, to in one.items() if name != to}):
        notes = notes | {"merged": ", ".join(several)}
    for file, name, part in rows:
        if part != UNLABELLED and one[name] not in names:
            where = pictures.shown(str(root / file))
            raise UserError(f"own: {where} is of the unknown class {name!r}; expected {', '.join(names)}")
    if len(names) < 2:
        raise UserError(f"own: {root} has one class, {', '.join(names)}; expected two or more: {LAYOUT}; {ORIGIN}")
    files, labels, split = pictures.columns(
        (file, UNKNOWN if part == UNLABELLED else names.index(one[name]), part) for file, name, part in rows
    )
    if not (split == TEST).any():
        split = _with_test(files, labels, split, test_share)
        notes = notes | {"test": f"{test_share:.0%} of each class by the hash of the path"}
    for label, name in enumerate(names):
        if not ((labels == label) & (split == TRAIN)).any():
            raise UserError(f"own: {root} holds no training image of class {name!r}")
    return Table(names, labels, split, files, notes={"test": "test"} | notes), files


def _with_test(files: list[str], labels: np.ndarray, split: np.ndarray, share: float) -> np.ndarray:
    """The split with this share of each class's training faces turned to test, by the hash of the path."""
    hashes = np.array([hashlib.sha256(os.fsencode(file)).hexdigest() for file in files])
    split = split.copy()
    for label in range(labels.max() + 1):
        pool = np.flatnonzero((labels == label) & (split == TRAIN))
        split[pool[np.argsort(hashes[pool])][: round(share * len(pool))]] = TEST
    return split
