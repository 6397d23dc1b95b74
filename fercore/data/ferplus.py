"""FER+ (Barsoum et al. 2016): the faces of FER2013 with the votes of ten taggers in the place of their labels.

fer2013new.csv has the columns Usage, Image name, eight expressions, unknown and NF (no face), and the rows of
fer2013.csv in their order, beside which it is read. A face's label is the "majority" of the authors' code: single votes
do not count, and the first expression needs more than half of the others. Left out are faces without a majority, those
that are by majority unknown or no face, and those of contempt unless it is asked for. meta["votes"] [n, 10] keeps the
votes. Split and tested as FER2013.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from fercore.data import expressions, fer2013, folders, pictures
from fercore.data.expressions import EXPRESSIONS, ORDERS
from fercore.data.faces import UNKNOWN, Source, Table, digest
from fercore.errors import UserError

FILES = [*(f"fer2013new.csv{pack}" for pack in fer2013.PACKS), "fer2013new.zip"]
LAYOUT = f"fer2013new.csv (also .gz .bz2 .xz .zip) and, beside it or each in a folder of its own, {fer2013.NAMES[0]}"
ORIGIN = f"get it from Microsoft's repository FERPlus, and the faces: {fer2013.ORIGIN}"
COLUMNS = (*ORDERS["ferplus"][:-1], "NF")  # how the file calls "no face"
TAGGERS = 10
BLOCK = 100  # faces whose labels are compared with FER2013's own
LEAST_ALIKE = 0.43  # chosen: of a block; in the authors' files 0.56 to 0.82, with the votes some rows off 0.07 to 0.31


def source(root: str | Path | None, contempt: bool = False) -> Source:
    """`root` holds the two files, in itself or one folder down. `contempt`: with it as the eighth class."""
    root = folders.located(root, "ferplus", LAYOUT, ORIGIN)
    faces, votes = (fer2013.file(root, names) if root.is_dir() else None for names in (fer2013.FILES, FILES))
    if faces is None or votes is None:
        absent = "the faces" if faces is None else "fer2013new.csv"
        raise UserError(f"ferplus: {root}: {absent} not found; expected {LAYOUT}; {ORIGIN}")
    parts = [path.relative_to(root).as_posix() for path in (faces, votes)]
    return Source(
        pictures.stamp(folders.contents(root, *parts)),
        lambda put, size: read(faces, votes, contempt, put),
        lambda table: folders.left_out(root, parts),
    )


def read(faces: Path, path: Path, contempt: bool, put: Callable) -> Table:
    """One pass over the faces, of which those without a label are left out."""
    usage, votes = tagged(path)
    top = majority(votes)
    classes = (*EXPRESSIONS, "contempt") if contempt else EXPRESSIONS
    labels = decode(top, classes)
    number = count()

    def labelled(image: np.ndarray | UserError):
        row = next(number)
        if row < len(labels) and labels[row] != UNKNOWN:
            put(image)

    table, tenth = fer2013.published(faces, labelled)
    compare(table, usage, decode(top, EXPRESSIONS), f"{path}: its rows are not those of {faces}")
    n = len(table.labels)
    rows = np.flatnonzero(labels[:n] != UNKNOWN)
    split = table.split[rows]
    notes = {"test": fer2013.tested(split, tenth[rows])} | ({"protocol": "contempt"} if contempt else {})
    notes["no_majority"] = int((top[:n] == UNKNOWN).sum())
    notes["other_majority"] = n - len(rows) - notes["no_majority"]  # unknown, no face, contempt
    content = digest(table.fingerprint.encode(), votes[:n].tobytes(), " ".join(classes).encode())
    about = {"fingerprint": content, "notes": notes, "meta": {"votes": votes[rows]}}
    return Table(classes, labels[rows], split, [table.files[row] for row in rows], **about)


def tagged(path: Path) -> tuple[np.ndarray, UInt8[np.ndarray, "n 10"]]:
    """Usage, as a split, and votes of each row. Raises UserError for another content."""
    usage, votes = [], []
    for number, (said, *counts) in enumerate(fer2013.rows(path, ("Usage", *COLUMNS), ORIGIN, names=FILES[:1]), 1):
        named = fer2013.BY_NAME.get(said.lower())
        if named is None or not all(cell.isdecimal() and int(cell) <= TAGGERS for cell in counts):
            expected = f"{', '.join(fer2013.USAGE)} and 0-{TAGGERS}"
            raise UserError(f"{path}: row {number} has Usage {said!r}, votes {counts}; expected {expected}")
        usage.append(fer2013.USAGE[named])
        votes.append([int(cell) for cell in counts])
    return np.array(usage, np.int8), np.array(votes, np.uint8).reshape(-1, len(COLUMNS))


def majority(votes: UInt8[np.ndarray, "n 10"]) -> Int64[np.ndarray, " n"]:
    """The column with more than half of the votes that are not single; UNKNOWN where there is none."""
    counted = np.where(votes > 1, votes, 0)
    return np.where(2 * counted.max(1) > counted.sum(1), counted.argmax(1), UNKNOWN)


def decode(top: Int64[np.ndarray, " n"], classes: tuple[str, ...]) -> Int64[np.ndarray, " n"]:
    """Columns as indices into the classes; UNKNOWN stays, and is what is none of them."""
    labels = top.copy()
    labels[top != UNKNOWN] = expressions.decode("ferplus", top[top != UNKNOWN], classes)
    return labels


def compare(table: Table, usage: np.ndarray, labels: Int64[np.ndarray, " v"], where: str) -> None:
    """Raises UserError where the rows of votes are not those of the faces: by number, Usage, and FER2013's labels."""
    n = len(table.labels)
    if n not in (*np.flatnonzero(np.diff(usage)) + 1, len(usage)):
        raise UserError(f"{where}: {len(usage):,} rows for {n:,} faces; expected as many, or a last Usage more")
    if len(other := np.flatnonzero(usage[:n] != table.split)):
        raise UserError(f"{where}: row {other[0] + 1} is of another Usage")
    known = np.flatnonzero(labels[:n] != UNKNOWN)
    for block in np.array_split(known, max(1, len(known) // BLOCK)):
        alike = (labels[block] == table.labels[block]).mean() if len(block) else 1.0
        if alike < LEAST_ALIKE:
            rows = f"{block[0] + 1:,} to {block[-1] + 1:,}"
            raise UserError(f"{where}: in rows {rows} {alike:.0%} have the label of FER2013, expected about two thirds")
