"""ExpW (Zhang et al. 2018): 91,793 faces cut out of web photographs. It has no official split.

image/origin/<name>.jpg and label/label.lst with lines
"name face_id top left right bottom confidence label" (that order of the box). One photograph can hold several
faces, so a face is known by name and id, and the split goes by photograph: one in ten, by the hash of its name, is
test.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from fercore.data import expressions, folders, lists, pictures
from fercore.data.faces import TEST, TRAIN, Source, Table
from fercore.errors import UserError

LAYOUT = "image/origin/*.jpg and label/label.lst"
ORIGIN = "get it from the project page of ExpW (MMLab, The Chinese University of Hong Kong)"


def source(root: str | Path | None) -> Source:
    """`root` holds the folders image and label."""
    root = folders.located(root, "expw", LAYOUT, ORIGIN)
    if not (root / "image/origin").is_dir() or not (root / "label/label.lst").is_file():
        raise UserError(f"expw: {root} has another layout; expected {LAYOUT}; {ORIGIN}")
    return pictures.of_files(root, lambda: table(root), "image/origin", "label/label.lst")


def table(root: Path) -> Table:
    files, names, numbers = [], [], []
    path = root / "label/label.lst"
    for number, line in lists.lines(path):
        try:
            name, face, top, left, right, bottom, confidence, label = line.rsplit(maxsplit=7)
            numbers.append((int(left), int(top), int(right), int(bottom), float(confidence), int(label)))
        except ValueError:
            expected = "name face_id top left right bottom confidence label"
            raise UserError(f"{path}, line {number}: {line!r}; expected {expected}") from None
        files.append(f"image/origin/{name}")
        names.append(f"image/origin/{name}#{face}")
    numbers = np.array(numbers).reshape(-1, 6)
    test = [int(hashlib.sha256(os.fsencode(file)).hexdigest(), 16) % 10 == 0 for file in files]
    split = np.where(test, TEST, TRAIN).astype(np.int8)
    labels = expressions.decode("expw", numbers[:, 5].astype(np.int64))
    notes = {"test": "one photograph in ten, by the hash of its name (no official split)"}
    boxes, meta = numbers[:, :4].astype(np.int64), {"confidence": numbers[:, 4]}
    return Table(expressions.EXPRESSIONS, labels, split, files, names, boxes, notes=notes, meta=meta)
