"""FER+: the majority rule against a loop, the votes beside the right faces, and what is refused."""

import bz2
import gzip
import io
import lzma
import zipfile

import numpy as np
import pytest

from fercore.data import check, ferplus, load, splits
from fercore.data.expressions import EXPRESSIONS
from fercore.data.faces import TEST, TRAIN, UNKNOWN, VALIDATION
from fercore.errors import UserError

USAGES = ("Training", "Training", "PublicTest", "PrivateTest")
FER2013 = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
TAGS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
LATER = ("contempt", "unknown", "NF", None)  # None: no majority


pytestmark = pytest.mark.usefixtures("fresh_cache")


def rows(usages=USAGES):
    """(FER2013's label, Usage, FER+'s label, pixels): the seven expressions, then those of LATER, for each usage."""
    draw = np.random.default_rng(0)
    return [
        (FER2013.index(tag) if tag in FER2013 else 0, usage, tag, draw.integers(0, 256, (48, 48), np.uint8))
        for usage in usages
        for tag in (*FER2013, *LATER)
    ]


def votes(tag):
    """Eight of ten for this tag; half and half for None."""
    counts = dict.fromkeys(TAGS, 0)
    counts |= {"neutral": 5, "sadness": 5} if tag is None else {"unknown": 1, "fear": 1}
    return [counts[name] + (8 if name == tag else 0) for name in TAGS]


def faces_csv(made, header="emotion,pixels,Usage"):
    lines = [f"{label},{' '.join(map(str, pixels.ravel()))},{usage}" for label, usage, _, pixels in made]
    return "\n".join([header, *lines]).encode()


def votes_csv(made):
    lines = [f"{usage},fer{i:07}.png,{','.join(map(str, votes(tag)))}" for i, (_, usage, tag, _) in enumerate(made)]
    return "\n".join([f"Usage,Image name,{','.join(TAGS)}", *lines]).encode()


def zipped(content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        pack.writestr("FERPlus/fer2013new.csv", content)
        pack.writestr("FERPlus/label.csv", b"a,b\n")
    return out.getvalue()


PACKS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped}


def write(root, faces, votes, places=("fer2013.csv", "fer2013new.csv")):
    for place, content in zip(places, (faces, votes)):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_bytes(content)


def majority_by_loop(counts):
    """As the authors' code: single votes go, then the first column needs more than half."""
    counts = [n if n > 1 else 0 for n in counts]
    best = max(range(10), key=lambda c: (counts[c], -c))
    return best if counts[best] > 0.5 * sum(counts) else UNKNOWN


def test_majority_as_a_loop_finds_it():
    drawn = np.random.default_rng(0).multinomial(10, [0.4, 0.3, *[0.3 / 8] * 8], 2000).astype(np.uint8)
    edges = [[5, 5], [5, 4, 1], [1] * 10, [2, 1, 1, 1, 1, 1, 1, 1, 1], [0] * 10, [2, 2, 2, 2, 2], [3, 3, 4], [6, 4]]
    edges += [[0] * 9 + [10], [4, 2, 2, 1, 1]]
    cases = np.array([*drawn, *(edge + [0] * (10 - len(edge)) for edge in edges)], np.uint8)
    found = ferplus.majority(cases)
    assert found.tolist() == [majority_by_loop(case.tolist()) for case in cases]
    assert found[2000:].tolist() == [-1, 0, -1, 0, -1, -1, -1, 0, 9, -1]


@pytest.mark.parametrize("contempt", [False, True])
@pytest.mark.parametrize("pack", PACKS)
def test_faces_have_the_labels_and_votes_of_their_rows(root, pack, contempt):
    made = rows()
    name = f"fer2013new.csv{pack}"
    write(root, lzma.compress(faces_csv(made)), PACKS[pack](votes_csv(made)), ("FER/fer2013.csv.xz", f"votes/{name}"))
    faces = load("ferplus", root, contempt=contempt)
    assert faces.classes == (*EXPRESSIONS, *(["contempt"] if contempt else []))
    kept = [i for i, (_, _, tag, _) in enumerate(made) if tag in faces.classes]
    assert [faces.classes[label] for label in faces.labels] == [made[i][2] for i in kept]
    np.testing.assert_array_equal(faces.images[:, 0], [made[i][3] for i in kept])
    assert faces.sources.tolist() == [f"fer2013.csv.xz:{i + 1}" for i in kept]
    parts = {"Training": TRAIN, "PublicTest": VALIDATION, "PrivateTest": TEST}
    assert faces.split.tolist() == [parts[made[i][1]] for i in kept]
    assert faces.meta["votes"].tolist() == [votes(made[i][2]) for i in kept]
    counted = {"no_majority": 4, "other_majority": 8 if contempt else 12}
    assert faces.notes == {"test": "PrivateTest", **counted} | ({"protocol": "contempt"} if contempt else {})


@pytest.mark.parametrize(
    ("usages", "tested", "split"),
    [(USAGES[:3], "PublicTest", [TRAIN] * 14 + [TEST] * 7), (USAGES[:2], "one row in ten", None)],
)
def test_a_copy_without_test_rows_has_the_first_votes(root, usages, tested, split):
    write(root, faces_csv(rows(usages)), votes_csv(rows()))
    faces = load("ferplus", root)
    assert faces.notes["test"].startswith(tested) and len(faces.labels) == 7 * len(usages)
    assert split is None or faces.split.tolist() == split


def test_fingerprint_is_of_faces_votes_and_classes(root):
    made, found = rows(), []
    for changed, contempt in ((made, False), (made, True), ([*made[:7], made[8], *made[8:]], False)):
        write(root, faces_csv(made), votes_csv(changed))
        found.append(load("ferplus", root, contempt=contempt).fingerprint)
    write(root, gzip.compress(faces_csv(made)), votes_csv(made), ("fer2013.csv.gz", "fer2013new.csv"))
    (root / "fer2013.csv").unlink()
    assert len(set(found)) == 3 and load("ferplus", root).fingerprint == found[0]


MADE = rows()
SHIFTED = [(label, usage, MADE[i - 1][2], pixels) for i, (label, usage, _, pixels) in enumerate(MADE)]


@pytest.mark.parametrize(
    ("faces", "votes", "message"),
    [
        (faces_csv(MADE[:-1]), votes_csv(MADE), r"not those of .*fer2013\.csv: 44 rows for 43 faces"),
        (faces_csv(MADE), votes_csv(MADE[:-11]), "33 rows for 44 faces"),
        (faces_csv(MADE[11:]), votes_csv(MADE), "row 12 is of another Usage"),
        (faces_csv(MADE), votes_csv(SHIFTED), r"in rows \d+ to \d+ \d+% have the label of FER2013"),
        (faces_csv(MADE), votes_csv(MADE).replace(b",8,", b",x,"), "row 1 has Usage 'Training', votes"),
        (faces_csv(MADE), votes_csv(MADE).replace(b",8,", b",11,"), "expected .* 0-10"),
        (faces_csv(MADE), votes_csv(MADE).replace(b"PublicTest", b"Public"), "row 23 has Usage 'Public'"),
        (faces_csv(MADE), votes_csv(MADE).replace(b"fear", b"afraid"), r"fer2013new\.csv: columns Usage.*expected"),
        (faces_csv(MADE), votes_csv(MADE) + b"\nTraining,a", "row 45 has Usage 'Training', votes \\['', "),
        (faces_csv(MADE), b"", "columns none; expected"),
        (faces_csv(MADE).replace(b"Usage", b"U"), votes_csv(MADE), "row 23 is of another Usage"),
        (b"a,b\n", votes_csv(MADE), r"fer2013\.csv: columns a, b"),
    ],
)
def test_bad_input(faces, votes, message, root, tmp_path):
    write(root, faces, votes)
    with pytest.raises(UserError, match=message) as caught:
        load("ferplus", root)
    assert "\n" not in str(caught.value) and not list((tmp_path / "cache").glob("faces/*"))


@pytest.mark.parametrize(("absent", "said"), [("fer2013.csv", "the faces"), ("fer2013new.csv", r"fer2013new\.csv")])
def test_one_file_of_two(root, absent, said):
    write(root, faces_csv(MADE), votes_csv(MADE))
    (root / absent).unlink()
    (root / "train" / "angry").mkdir(parents=True)  # FER2013's other layout, whose faces have no rows
    with pytest.raises(UserError, match=f"^ferplus: .*: {said} not found; expected .*; get it"):
        load("ferplus", root)


def test_check_compares_with_the_counts_of_the_authors_files(root):
    write(root, faces_csv(MADE), votes_csv(MADE))
    report = check.check("ferplus", root)
    assert report["verdict"]["train"] == "24,927 fewer than Training" and report["counts"]["test"] == [1] * 7
    assert check.verdict([396, 83, 18, 893, 384, 273, 1090], check.nearest([3137], check.OFFICIAL["ferplus"]["test"]))
    eight = check.check("ferplus", root, contempt=True)
    assert eight["verdict"]["test"] == "3,145 fewer than PrivateTest with contempt"
    assert "no_majority: 4" in check.render(report) and report["duplicates"]["conflicting"] == 0


def test_votes_stay_beside_unlabelled_pictures(root, tmp_path):
    from PIL import Image

    write(root, faces_csv(MADE), votes_csv(MADE))
    (tmp_path / "more").mkdir()
    Image.fromarray(MADE[0][3]).save(tmp_path / "more" / "1.png")
    faces = load("ferplus", root, unlabelled=str(tmp_path / "more"))
    assert faces.labels[-1] == UNKNOWN and faces.meta["votes"][-1].tolist() == [0] * 10


def test_budget_of_the_training_faces():
    """By the authors' counts disgust has 119; the record's counts are these."""
    counts = check.OFFICIAL["ferplus"]["train"][0][1]
    labels = np.repeat(np.arange(7), counts)
    drawn = splits.draw(labels, 2000, 0, dataset="ferplus", classes=EXPRESSIONS)
    assert drawn.counts[EXPRESSIONS.index("disgust")] == int(0.8 * 119) == 95
    assert sum(drawn.counts) == 2000 and max(drawn.counts) - sorted(drawn.counts)[1] == 1
