"""RAF-DB, basic expressions (Li, Deng & Du 2017): 12,271 training and 3,068 test faces, no validation split.

`basic/EmoLabel/list_patition_label.txt` (their spelling) holds lines such as "train_00001.jpg 5", 1-based;
`basic/Image/aligned/train_00001_aligned.jpg` are 100 x 100, `basic/Image/original/train_00001.jpg` differ in size.
"""

from pathlib import Path

from fercore.data import expressions, pictures
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
    root = pictures.located(root, "rafdb", LAYOUT, ORIGIN)
    if (root / "basic").is_dir():
        root = root / "basic"
    if not (root / LIST).is_file() or not (root / "Image" / images).is_dir():
        raise UserError(f"rafdb: {root} has another layout; expected {LAYOUT}; {ORIGIN}")
    return pictures.of_files(root, pictures.stamp(root, LIST, f"Image/{images}"), lambda: table(root, images))


def table(root: Path, images: str) -> tuple[Table, list[str]]:
    rows = []
    for number, line in enumerate((root / LIST).read_text("utf-8").splitlines(), 1):
        name, _, label = line.strip().partition(" ")
        split = SPLIT.get(name.split("_")[0])
        if split is None or not label.strip().isdecimal():
            raise UserError(f"{root / LIST}, line {number}: {line!r}; expected a line like 'train_00001.jpg 5'")
        stem = name.removesuffix(".jpg")
        file = f"Image/aligned/{stem}_aligned.jpg" if images == "aligned" else f"Image/original/{name}"
        rows.append((file, int(label), split))
    files, labels, split = pictures.columns(rows)
    labels = expressions.decode("rafdb", labels)
    return Table(expressions.EXPRESSIONS, labels, split, files, notes={"images": images, "test": "test"}), files
