"""Your own faces: a folder per class, or a CSV; any class names, grey or colour, any size.

<class>/*.jpg; or train/<class>/*.jpg, test/<class>/*.jpg and, if you like, validation/<class>/*.jpg; or a CSV with the
columns path (relative to the CSV), label and, if you like, split (train, validation or test). Without a test split,
`test_share` of each class, chosen by the hash of the path, becomes one. Photographs are used whole: crop them
to the face first.
"""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fercore.data import pictures
from fercore.data.faces import TEST, TRAIN, VALIDATION, Source, Table
from fercore.errors import UserError

LAYOUT = "a folder per class (also below train/ and test/), or a CSV with the columns path, label and perhaps split"
ORIGIN = "see fercore/data/own.md"
SPLIT = {"train": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "test": TEST}


def source(root: str | Path | None, classes: Sequence[str] | None = None, test_share: float = 0.2) -> Source:
    """`root` is the folder or the CSV; `classes` gives the order of the classes, which is else alphabetical."""
    if not 0 <= test_share < 1:
        raise UserError(f"own: test_share={test_share}; expected at least 0 and less than 1")
    if isinstance(classes, str):
        raise UserError(f"own: classes={classes!r}; expected a list of names")
    root = pictures.located(root, "own", LAYOUT, ORIGIN)
    if root.is_file():
        rows = of_csv(root)
        key = pictures.stamp(root.parent, root.name, *dict.fromkeys(row[0] for row in rows))
        root = root.parent
    else:
        parts = [folder for folder in pictures.subfolders(root) if folder.name.lower() in SPLIT]
        places = [(folder, SPLIT[folder.name.lower()]) for folder in parts] or [(root, TRAIN)]
        rows = [
            (file.relative_to(root).as_posix(), folder.name, split)
            for place, split in places
            for folder in pictures.subfolders(place)
            for file in pictures.below(folder)
        ]
        key = pictures.stamp(root, *(folder.name for folder in pictures.subfolders(root)))
    if not rows:
        raise UserError(f"own: {root} holds no image in a folder per class; expected {LAYOUT}; {ORIGIN}")
    return pictures.of_files(root, key, lambda: table(root, rows, classes, test_share))


def of_csv(path: Path) -> list[tuple[str, str, int]]:
    """(file, class, split) of each row."""
    rows = []
    try:
        lines = csv.DictReader(path.read_text("utf-8-sig").splitlines(), skipinitialspace=True)
        if not {"path", "label"} <= set(lines.fieldnames or ()):
            raise UserError(f"{path}: columns {lines.fieldnames}; expected path, label and perhaps split")
        for row in lines:
            split = (row.get("split") or "train").strip().lower()
            if split not in SPLIT or not row["path"] or not row["label"]:
                given = ", ".join(f"{key}={row.get(key)!r}" for key in ("path", "label", "split"))
                expected = f"a path, a label and one of {', '.join(SPLIT)}"
                raise UserError(f"{path}, line {lines.line_num}: {given}; expected {expected}")
            rows.append((row["path"].strip(), row["label"].strip(), SPLIT[split]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV in UTF-8 ({error}); expected {LAYOUT}") from None
    return rows


def table(root: Path, rows: list, classes: Sequence[str] | None, test_share: float) -> tuple[Table, list[str]]:
    names = tuple(classes or sorted({name for _, name, _ in rows}))
    for file, name, _ in rows:
        if name not in names:
            raise UserError(f"own: {root / file} is of the unknown class {name!r}; expected {', '.join(names)}")
    files, labels, split = pictures.columns((file, names.index(name), part) for file, name, part in rows)
    notes = {"test": "test"}
    if not (split == TEST).any():
        hashes = np.array([hashlib.sha256(file.encode()).hexdigest() for file in files])
        for label in range(len(names)):
            pool = np.flatnonzero((labels == label) & (split == TRAIN))
            split[pool[np.argsort(hashes[pool])][: round(test_share * len(pool))]] = TEST
        notes = {"test": f"{test_share:.0%} of each class by the hash of the path"}
    for label, name in enumerate(names):
        if not ((labels == label) & (split == TRAIN)).any():
            raise UserError(f"own: {root} holds no training image of class {name!r}")
    return Table(names, labels, split, files, notes=notes), files
