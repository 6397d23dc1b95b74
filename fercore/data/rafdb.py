"""RAF-DB, basic expressions (Li, Deng & Du 2017): 12,271 training and 3,068 test faces, no validation split.

`basic/EmoLabel/list_patition_label.txt` (their spelling) holds lines such as "train_00001.jpg 5", 1-based;
`basic/Image/aligned/train_00001_aligned.jpg` are 100 x 100, `basic/Image/original/train_00001.jpg` differ in size.
"""

from pathlib import Path

from fercore.data import expressions, folders, lists, pictures
from fercore.data.faces import TEST, TRAIN, Source, Table
from fercore.errors import UserError

LIST = "EmoLabel/list_patition_label.txt"
LAYOUT = f"basic/{LIST} beside basic/Image/aligned/ (or original/)"
ORIGIN = "ask for it at the project page of RAF-DB (Li and Deng, BUPT)"
SPLIT = {"train": TRAIN, "test": TEST}


def source(root: str | Path | None, images: str = "aligned") -> Source:
    """`root` is the folder basic or the one that holds it; `images` is "aligned" or "original"."""
    if images not in ("aligned", "original"):
        raise UserError(f"rafdb: images={images!r}; expected aligned or original")
    root = folders.located(root, "rafdb", LAYOUT, ORIGIN)
    if (root / "basic").is_dir():
        root = root / "basic"
    if not (root / LIST).is_file() or not (root / "Image" / images).is_dir():
        raise UserError(f"rafdb: {root} has another layout; expected {LAYOUT}; {ORIGIN}")
    return pictures.of_files(root, lambda: table(root, images), LIST, f"Image/{images}")


def table(root: Path, images: str) -> Table:
    """Labels, splits and files of the list. Raises UserError with the line that cannot be read, or in two ways."""
    at, found = root / LIST, {}
    for number, line in lists.lines(at):
        name, *label = line.replace(",", " ").split()
        split, stem = SPLIT.get(name.split("_")[0]), name.removesuffix(".jpg").removesuffix("_aligned")
        if split is None or len(label) != 1 or not label[0].isdecimal():
            raise UserError(f"{at}, line {number}: {line!r}; expected a line like 'train_00001.jpg 5'")
        if found.setdefault(stem, (int(label[0]), split)) != (int(label[0]), split):
            raise UserError(f"{at}, line {number}: {name} has label {label[0]}, and {found[stem][0]} above")
    given = {label for label, _ in found.values()}
    if given and min(given) > 0 and max(given) < len(expressions.EXPRESSIONS):
        names = expressions.EXPRESSIONS
        which = f"from 1 without {names[-1]}, or from 0 without {names[0]}?"
        raise UserError(f"{at}: labels {min(given)} to {max(given)}: {which}")
    # Some copies have the aligned pictures under the plain names.
    first = root / f"Image/aligned/{next(iter(found), '')}_aligned.jpg"
    ending = "_aligned.jpg" if images == "aligned" and first.exists() else ".jpg"
    rows = ((f"Image/{images}/{stem}{ending}", *of) for stem, of in found.items())
    files, labels, split = pictures.columns(rows)
    labels = expressions.decode("rafdb", labels)
    return Table(expressions.EXPRESSIONS, labels, split, files, notes={"images": images, "test": "test"})
