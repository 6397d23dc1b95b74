"""The rendered faces: a pure function of the seed, labelled by EMFACS, with units that do what the manual says."""

from types import SimpleNamespace

import numpy as np
import pytest

from fercore.data import facs
from fercore.data.faces import TEST, TRAIN
from fercore.data.portrait import draw
from fercore.errors import UserError

SIZE = 96


@pytest.fixture(scope="module")
def small():
    return facs.faces(n=70, test=35, size=32, seed=3)


def test_the_same_seed_gives_the_same_bytes(small):
    again, other = facs.faces(n=70, test=35, size=32, seed=3), facs.faces(n=70, test=35, size=32, seed=4)
    assert small.images.tobytes() == again.images.tobytes() and small.fingerprint == again.fingerprint
    assert small.fingerprint != other.fingerprint
    assert not (small.images == other.images).all((1, 2, 3)).any()


def test_a_face_does_not_depend_on_how_many_there_are(small):
    fewer = facs.faces(n=50, test=7, size=32, seed=3)  # other batches, too
    for part in (TRAIN, TEST):
        few, many = fewer.split == part, np.flatnonzero(small.split == part)[: (fewer.split == part).sum()]
        assert (fewer.images[few] == small.images[many]).all()
        assert (fewer.labels[few] == small.labels[many]).all()


def test_a_face_does_not_depend_on_those_drawn_with_it(monkeypatch):
    together = facs.faces(n=14, test=7, size=32, difficulty=1)
    monkeypatch.setattr(facs, "CHUNK", 1)
    assert (facs.faces(n=14, test=7, size=32, difficulty=1).images == together.images).all()


def test_columns_fit_together(small):
    assert small.images.shape == (105, 3, 32, 32) and small.images.dtype == np.uint8
    assert small.labels.dtype == np.int64 and small.split.tolist() == [TRAIN] * 70 + [TEST] * 35
    assert small.classes == ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
    assert np.bincount(small.labels[:70]).tolist() == [10] * 7
    assert len(set(small.sources)) == 105 and small.sources[70] == "test/0"
    assert small.meta["aus"].shape == (105, len(facs.AUS)) and small.meta["intensity"].shape == (105,)
    assert small.notes["aus"] == list(facs.AUS)
    people = small.meta["person"]
    assert not set(people[:70]) & set(people[70:])


def test_units_are_exactly_those_of_emfacs(small):
    aus, intensity = small.meta["aus"], small.meta["intensity"]
    assert aus.min() >= 0 and aus.max() <= 1
    for label, name in enumerate(small.classes):
        active = {au for au, used in zip(facs.AUS, (aus[small.labels == label] > 0).T) if used.any()}
        assert active == set(facs.EMFACS[name])
        assert ((intensity[small.labels == label] > 0) == (name != "neutral")).all()
        assert ((aus[small.labels == label] > 0).sum(1) == len(facs.EMFACS[name])).all()


def test_imbalance_keeps_rafdb_proportions_in_every_prefix():
    labels = facs.turns(2000, facs.RAFDB)
    share = np.array(facs.RAFDB) / sum(facs.RAFDB)
    for count in (100, 700, 2000):
        assert np.abs(np.bincount(labels[:count], minlength=7) - share * count).max() < 1.5
    assert (facs.faces(n=60, test=19, size=16, imbalance=True).labels[:60] == labels[:60]).all()


def test_one_person_can_be_seen_several_times():
    faces = facs.faces(n=14, test=7, size=16, per_person=7)
    assert faces.meta["person"].tolist() == [0] * 7 + [1] * 7 + [2] * 7


@pytest.mark.parametrize(
    ("option", "value"), [("n", 6), ("test", 0), ("size", 8), ("seed", -1), ("per_person", 0), ("difficulty", 1.5)]
)
def test_numbers_out_of_range_are_named(option, value):
    with pytest.raises(UserError, match=f"{option} is {value}"):
        facs.faces(**{option: value})


def test_a_rare_class_needs_enough_faces():
    with pytest.raises(UserError, match=r"test is 18, too few .* expected 19"):
        facs.faces(n=19, test=18, size=16, imbalance=True)


def portrait(**units):
    """One even-lit, unblurred face [3, 96, 96] of an average person, with units such as au12=1.0."""
    middle = {name: (low + high) / 2 for name, (low, high) in facs.PERSON.items()}
    middle.update(skin=0.1, hair=0, hairline=-0.75, sweep=0, lips=1, parted=0)
    middle.update(dict.fromkeys(("glasses", "beard", "moustache", "wear", "age"), 0))
    column = lambda value: np.full((1, 1, 1), value, np.float32)
    person = SimpleNamespace(**{name: column(value) for name, value in middle.items()})
    photo = SimpleNamespace(**{name: column(rest) for name, (rest, _) in facs.PHOTO.items()})
    photo.zoom, photo.shift_y = column(1.0), column(0.0)
    aus = np.array([[[units.get(f"au{au}", 0.0) for au in facs.AUS]] * 2])
    return draw(person, facs.move(person, aus), photo, SIZE).rgb[0]


def box(image, x0, x1, y0, y1):
    """Cut-out of a face by head coordinates, -1 to 1."""
    x0, x1, y0, y1 = (round((p + 1) / 2 * SIZE) for p in (x0, x1, y0, y1))
    return image[:, y0:y1, x0:x1]


def dark(cut, below=0.3):
    return cut.mean(0) < below


def red(cut):
    return cut[0] - cut[1] > 0.35


def white(cut):
    return cut.min(0) > 0.78


def high(mask):
    """Mean row of a mask, counted upwards."""
    return -np.nonzero(mask)[0].mean()


MEASURES = {
    "inner brow": lambda face: high(dark(box(face, 0.12, 0.30, -0.60, -0.17))),
    "outer brow": lambda face: high(dark(box(face, 0.45, 0.60, -0.55, -0.20))),
    "dark between the brows": lambda face: dark(box(face, -0.17, 0.17, -0.45, -0.17), 0.5).sum(),
    "white of the eye": lambda face: white(box(face, 0.1, 0.6, -0.35, 0.1)).sum(),
    "open eye": lambda face: (np.ptp(box(face, 0.1, 0.6, -0.22, 0.05), axis=0) < 0.12).sum(),  # colourless pixels
    "lines on the nose": lambda face: -box(face, -0.1, 0.1, -0.12, 0.08).mean(),
    "lip corner": lambda face: high(dark(box(face, 0.17, 0.34, 0.25, 0.75), 0.45)),
    "mouth width": lambda face: red(box(face, -0.5, 0.5, 0.3, 0.7)).any(0).sum(),
    "lip area": lambda face: red(box(face, -0.5, 0.5, 0.4, 0.7)).sum(),
    "dark of the mouth": lambda face: dark(box(face, -0.3, 0.3, 0.45, 0.95), 0.2).sum(),
    "teeth": lambda face: white(box(face, -0.3, 0.3, 0.45, 0.8)).sum(),
}


@pytest.mark.parametrize(
    "au, measure, sign",
    [
        (1, "inner brow", 1), (2, "outer brow", 1), (4, "inner brow", -1), (4, "dark between the brows", 1),
        (5, "white of the eye", 1), (6, "open eye", -1), (7, "open eye", -1), (9, "lines on the nose", 1),
        (12, "lip corner", 1), (12, "mouth width", 1), (15, "lip corner", -1), (16, "teeth", 1),
        (20, "mouth width", 1), (23, "lip area", -1), (23, "mouth width", -1), (26, "dark of the mouth", 1),
    ],
)  # fmt: skip
def test_a_unit_moves_what_the_manual_says(au, measure, sign):
    rest, half, full = (MEASURES[measure](portrait(**{f"au{au}": amount})) for amount in (0.0, 0.5, 1.0))
    assert sign * (full - rest) > 0
    assert sign * (half - rest) >= 0 and sign * (full - half) >= 0


def test_pixels_alone_do_not_give_the_class_away():
    faces = facs.faces(n=280, test=140, size=24, seed=1)
    flat, train = faces.images.reshape(420, -1).astype(float), faces.split == TRAIN
    centroids = np.stack([flat[train & (faces.labels == label)].mean(0) for label in range(7)])
    nearest = ((flat[~train, None] - centroids) ** 2).sum(2).argmin(1)
    assert 1 / 7 < (nearest == faces.labels[~train]).mean() < 0.5
