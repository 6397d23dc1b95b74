"""CK+ (Lucey et al. 2010): 327 labelled sequences from a neutral face to the peak; whole frames, grey and colour.

cohn-kanade-images/S005/001/S005_001_00000011.png with Emotion/S005/001/S005_001_00000011_emotion.txt (one float).
Three protocols are in use:
"last3": the last three frames of all, 981 images; contempt stands in the place of neutral.
"last3+neutral": the last three and, as neutral, the first frame of the 309 without contempt, 1,236 images.
"peak": the last frame of those 309, six expressions.
Subjects, in order, are dealt out to ten folds; `fold` (0-9) is the test split. meta["subject"] names them.
"""

from pathlib import Path

import numpy as np

from fercore.data import expressions, folders, lists, pictures
from fercore.data.faces import TEST, TRAIN, Source, Table
from fercore.errors import UserError

LAYOUT = "cohn-kanade-images/S005/001/*.png and Emotion/S005/001/*_emotion.txt"
ORIGIN = "ask for it at the project page of the extended Cohn-Kanade data set (CK+)"
LABEL = "_emotion.txt"
SIX = expressions.EXPRESSIONS[:6]
CLASSES = {"last3": (*SIX, "contempt"), "last3+neutral": expressions.EXPRESSIONS, "peak": SIX}
FRAMES = {"last3": 3, "last3+neutral": 4, "peak": 1}  # that a sequence must have
FOLDS = 10


def source(root: str | Path | None, protocol: str = "last3", fold: int = 0) -> Source:
    """`root` holds the folders cohn-kanade-images and Emotion."""
    if protocol not in CLASSES:
        raise UserError(f"ckplus: protocol={protocol!r}; expected {', '.join(CLASSES)}")
    if fold not in range(FOLDS):
        raise UserError(f"ckplus: fold={fold}; expected 0-{FOLDS - 1}")
    root = folders.located(root, "ckplus", LAYOUT, ORIGIN)
    if not (root / "cohn-kanade-images").is_dir() or not (root / "Emotion").is_dir():
        raise UserError(f"ckplus: {root} has another layout; expected {LAYOUT}; {ORIGIN}")
    read = lambda: table(root, protocol, fold)
    return pictures.of_files(root, read, "cohn-kanade-images", "Emotion", lists=(LABEL,))


def table(root: Path, protocol: str, fold: int) -> Table:
    classes, rows, subjects = CLASSES[protocol], [], []
    for path in folders.below(root / "Emotion", (LABEL,)):
        subject, sequence = path.parts[-3:-1]
        frames = folders.below(root / "cohn-kanade-images" / subject / sequence)
        try:
            number = np.array([int(float(*(line for _, line in lists.lines(path))))])
        except (TypeError, ValueError):
            raise UserError(f"{path}: expected one number 0-7") from None
        label = int(expressions.decode("ckplus", number, classes)[0])
        if label < 0:
            continue
        if len(frames) < FRAMES[protocol]:
            raise UserError(f"ckplus: {path} has {len(frames)} frames under cohn-kanade-images; expected {LAYOUT}")
        chosen = [(frame, label) for frame in frames[-1 if protocol == "peak" else -3 :]]
        if protocol == "last3+neutral":
            chosen.insert(0, (frames[0], classes.index("neutral")))
        rows += [(frame.relative_to(root).as_posix(), label, TRAIN) for frame, label in chosen]
        subjects += [subject] * len(chosen)
    files, labels, split = pictures.columns(rows)
    dealt = {subject: i % FOLDS for i, subject in enumerate(sorted(set(subjects)))}
    split[[dealt[subject] == fold for subject in subjects]] = TEST
    notes = {"protocol": protocol, "test": f"fold {fold} of {FOLDS} by subject"}
    return Table(classes, labels, split, files, notes=notes, meta={"subject": np.array(subjects, np.str_)})
