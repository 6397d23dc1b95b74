"""AffectNet (Mollahosseini, Hasani & Mahoor 2017), the seven expressions; tested on its validation set, as in papers.

Release a: Manually_Annotated_Images/<n>/<hash>.jpg, cut out by the boxes of Manually_Annotated_file_lists/
{training,validation}.csv. Release b: {train,val}_set/images/0.jpg, already cut out, with the label in
annotations/0_exp.npy (a 0-d array, often of strings). Contempt and what has no expression are dropped and counted
in notes, which also say which release it was.
"""

from pathlib import Path

import numpy as np

from fercore.data import expressions, folders, lists, pictures
from fercore.data.faces import TEST, TRAIN, Source, Table
from fercore.errors import UserError

LAYOUT = "Manually_Annotated_file_lists/ beside Manually_Annotated_Images/, or train_set/ and val_set/"
ORIGIN = "ask for it at the project page of AffectNet (Mahoor, University of Denver)"
IMAGES, LISTS = "Manually_Annotated_Images", "Manually_Annotated_file_lists"
COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression")
NOTES = {"test": "validation (the labels of its test set are not public)"}


def source(root: str | Path | None) -> Source:
    """`root` holds either release; release a also inside a folder Manually_Annotated."""
    root = folders.located(root, "affectnet", LAYOUT, ORIGIN)
    if (root / "train_set/images").is_dir() and (root / "val_set/images").is_dir():
        return pictures.of_files(root, lambda: release_b(root), "train_set", "val_set", lists=("_exp.npy",))
    images, tables = ([f"{place}{name}" for place in ("Manually_Annotated/", "")] for name in (IMAGES, LISTS))
    images, tables = ([place for place in places if (root / place).is_dir()] for places in (images, tables))
    if not images or not tables:
        raise UserError(f"affectnet: {root} has another layout; expected {LAYOUT}; {ORIGIN}")
    return pictures.of_files(root, lambda: release_a(root, images[0], tables[0]), images[0], tables[0], lists=(".csv",))


def release_a(root: Path, images: str, tables: str) -> Table:
    rows, boxes = [], []
    for name, split in (("training.csv", TRAIN), ("validation.csv", TEST)):
        if not (path := root / tables / name).is_file():
            raise UserError(f"affectnet: {path} is missing; {ORIGIN}")
        for number, cells in lists.rows(path):
            row = dict(zip(COLUMNS, cells))
            if row.get("expression") == "expression":  # the header, which not every copy has
                continue
            try:
                label = int(row["expression"])
                # From 7 on there may be no face, and so no numbers: these rows are dropped below.
                left, top, width, height = (int(float(row[key])) if label < 7 else 0 for key in COLUMNS[1:5])
            except (KeyError, ValueError):
                raise UserError(f"{path}, line {number}: not a row of {', '.join(COLUMNS)}") from None
            rows.append((f"{images}/{row[COLUMNS[0]]}", label, split))
            boxes.append((left, top, left + width, top + height))
    return seven(rows, "a", np.array(boxes, np.int64).reshape(-1, 4))


def release_b(root: Path) -> Table:
    files = [
        (file, split)
        for part, split in (("train_set", TRAIN), ("val_set", TEST))
        for file in folders.below(root / part / "images")
    ]

    def label(i: int) -> int:
        file = files[i][0]
        path = file.parent.parent / "annotations" / f"{file.stem}_exp.npy"
        try:
            return int(np.load(path, allow_pickle=False).item())
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: no label can be read there ({error}); fetch it again") from None

    labels = folders.parallel(label, len(files), "labels")
    return seven(
        [(file.relative_to(root).as_posix(), label, split) for (file, split), label in zip(files, labels)], "b"
    )


def seven(rows: list[tuple[str, int, int]], release: str, boxes: np.ndarray | None = None) -> Table:
    """Those of the faces that show one of the seven expressions."""
    files, labels, split = pictures.columns(rows)
    labels = expressions.decode("affectnet", labels)
    keep = np.flatnonzero(labels >= 0)
    files = [files[i] for i in keep]
    notes = {**NOTES, "release": release, "dropped": len(labels) - len(keep)}
    boxes = None if boxes is None else boxes[keep]
    return Table(expressions.EXPRESSIONS, labels[keep], split[keep], files, boxes=boxes, notes=notes)
