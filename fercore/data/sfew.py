"""SFEW 2.0 (Dhall et al. 2011, 2015): aligned faces, 143 x 181, from films. Tested on Val (Test has no public labels).

`Train/Train_Aligned_Faces/<Angry|Disgust|Fear|Happy|Neutral|Sad|Surprise>/*.png`, the same under
`Val/Val_Aligned_Faces` or `Val/Val_Aligned_Faces_new`. Results depend strongly on the alignment, so notes
say which folder was read.
"""

from pathlib import Path

from fercore.data import expressions, folders, pictures
from fercore.data.faces import TEST, TRAIN, Source, Table
from fercore.errors import UserError

LAYOUT = "Train/Train_Aligned_Faces/<Class>/ and Val/Val_Aligned_Faces_new/<Class>/ (or Val_Aligned_Faces)"
ORIGIN = "ask the authors for SFEW 2.0 (part of the EmotiW challenges)"
PLACES = {
    TRAIN: ("Train/Train_Aligned_Faces", "Train_Aligned_Faces"),
    TEST: ("Val/Val_Aligned_Faces_new", "Val/Val_Aligned_Faces", "Val_Aligned_Faces_new", "Val_Aligned_Faces"),
}


def source(root: str | Path | None) -> Source:
    """`root` holds the folders Train and Val, or what the two archives unpack to."""
    root = folders.located(root, "sfew", LAYOUT, ORIGIN)
    found = {split: [place for place in places if (root / place).is_dir()] for split, places in PLACES.items()}
    if not all(found.values()):
        raise UserError(f"sfew: {root} has another layout; expected {LAYOUT}; {ORIGIN}")
    places = {split: names[0] for split, names in found.items()}
    return pictures.of_files(root, lambda: table(root, places), *places.values())


def table(root: Path, places: dict[int, str]) -> Table:
    rows = []
    for split, place in places.items():
        rows += pictures.class_folders(root, root / place, split)
    files, labels, split = pictures.columns(rows)
    notes = {"test": places[TEST], "train": places[TRAIN]}
    return Table(expressions.EXPRESSIONS, labels, split, files, notes=notes)
