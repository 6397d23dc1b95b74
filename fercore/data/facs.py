"""Faces drawn from facial action units: the data set that travels with the code.

An expression is a set of action units, the muscles of the Facial Action Coding System (FACS). Each unit moves
landmarks of the face; the moved face is drawn for a random person and photographed with a random pose, light, lens
and occlusion:

    label ── EMFACS ──▶ units ── ACTIONS ──▶ landmarks ── draw ──▶ colours ── photograph ──▶ uint8 pixels

Drawing is in portrait.py; here is what is drawn. The pixels follow from the seed alone, on every machine.

Sources: the units of each expression are EMFACS's (Friesen and Ekman, 1983); what a unit does to the face is described
in the FACS manual (Ekman, Friesen and Hager, 2002); class counts of `imbalance`: RAF-DB (Li, Deng and Du, CVPR 2017).
"""

import hashlib
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float, Int64

from fercore.data.faces import TEST, TRAIN, Faces
from fercore.data.portrait import draw, photograph
from fercore.errors import UserError

EMFACS = {
    "surprise": (1, 2, 5, 26),
    "fear": (1, 2, 4, 5, 7, 20, 26),
    "disgust": (9, 15, 16),
    "happiness": (6, 12),
    "sadness": (1, 4, 15),
    "anger": (4, 5, 7, 23),
    "neutral": (),
}
RAFDB = (1290, 281, 717, 4772, 1982, 705, 2524)  # training images, same order

# What a unit does to its side of the face at full intensity. Lengths are in half head heights, y points down and x
# outwards: a raised brow is negative, a stretched mouth positive. The last of each row are lines and folds, 0 to 1.
# fmt: off
ACTIONS = {
    # inner and outer brow raiser, brow lowerer
    1: {"brow_in": -0.16, "brow_mid": -0.06, "lines_in": 1.0},
    2: {"brow_mid": -0.08, "brow_out": -0.13, "lines_out": 1.0},
    4: {"brow_in": 0.10, "brow_mid": 0.075, "brow_out": 0.02, "brow_gap": -0.05, "furrow": 1.0},
    # upper lid raiser, cheek raiser, lid tightener, nose wrinkler
    5: {"lid_up": 0.055},
    6: {"lid_low": -0.03, "cheek": 1.0, "crow": 1.0, "bag": 0.7},
    7: {"lid_up": -0.015, "lid_low": -0.03, "bag": 0.5},
    9: {"nose": -0.05, "lip_up": 0.05, "brow_in": 0.05, "lid_low": -0.02, "wrinkle": 1.0, "fold": 0.7, "bag": 0.5},
    # lip corner puller and depressor, lower lip depressor
    12: {"corner_x": 0.07, "corner_y": -0.13, "lip_up": 0.02, "lip_low": 0.03, "thick": -0.008, "fold": 1.0,
         "cheek": 0.5},
    15: {"corner_x": -0.01, "corner_y": 0.11, "droop": 1.0},
    16: {"lip_low": 0.09, "thick": -0.005, "lower_teeth": 1.0},
    # lip stretcher, lip tightener, jaw drop
    20: {"corner_x": 0.11, "corner_y": 0.02, "thick": -0.01},
    23: {"corner_x": -0.06, "thick": -0.03, "pursed": 1.0},
    26: {"corner_x": -0.05, "corner_y": 0.09, "lip_up": 0.02, "lip_low": 0.24, "jaw": 0.13},
}
AUS = tuple(ACTIONS)

# A person: each trait is uniform between two values. Lengths as above; shades and chances are 0 to 1.
PERSON = {
    "width": (0.68, 0.80), "chin": (0.90, 1.02), "taper": (0.10, 0.42), "skin": (0.0, 1.0), "blush": (0.0, 1.0),
    "age": (-0.6, 1.0), "hair": (0.0, 1.0), "hair_light": (0.8, 1.2), "hairline": (-0.80, -0.54), "part": (-0.4, 0.4),
    "sweep": (-0.15, 0.55), "volume": (0.01, 0.17), "curls": (-0.5, 1.0), "length": (0.0, 1.0), "wear": (0.0, 1.0),
    "cloth_r": (0.05, 0.9), "cloth_g": (0.05, 0.9), "cloth_b": (0.05, 0.9), "brow": (-0.335, -0.275),
    "brow_tilt": (-0.025, 0.025), "brow_arch": (0.01, 0.05), "brow_thick": (0.020, 0.042), "brow_gap": (0.16, 0.20),
    "eye_x": (0.315, 0.365), "eye_width": (0.150, 0.180), "eye_tilt": (-0.015, 0.02), "lid_up": (0.062, 0.085),
    "lid_low": (0.040, 0.056), "iris": (0.0, 1.0), "iris_size": (0.074, 0.086), "lashes": (0.0, 1.0),
    "glasses": (0.0, 1.0), "lens": (0.20, 0.25), "nose_width": (0.10, 0.155), "nose": (0.22, 0.30),
    "mouth": (0.50, 0.56), "corner_x": (0.22, 0.29), "corner_y": (-0.015, 0.02), "parted": (-0.06, 0.03),
    "thick": (0.035, 0.065), "lips": (0.0, 1.0), "beard": (0.0, 1.0), "moustache": (0.0, 1.0),
}
# A photograph: the value that asks nothing of the viewer, and the reach to either side at difficulty 1. Turns are
# tangents of half angles: 0.15 is 17 degrees. Something covers the face where `cover` is above 0.
PHOTO = {
    "yaw": (0.0, 0.16), "pitch": (0.0, 0.09), "roll": (0.0, 0.09), "zoom": (0.99, 0.10), "shift_x": (0.0, 0.07),
    "shift_y": (-0.04, 0.07), "gaze_x": (0.0, 0.06), "gaze_y": (0.0, 0.015), "light_x": (0.0, 0.9),
    "light_y": (-0.3, 0.6), "contrast": (0.45, 0.30), "exposure": (1.04, 0.38), "slope_x": (0.0, 0.3),
    "slope_y": (0.0, 0.3), "warm": (0.0, 0.12), "green": (0.0, 0.05), "colour": (0.9, 0.5), "blur": (0.45, 0.40),
    "noise": (0.35, 0.35), "wall_r": (0.5, 0.4), "wall_g": (0.5, 0.4), "wall_b": (0.5, 0.4), "wall_x": (0.0, 0.8),
    "cover": (-0.3, 1.0), "cover_x": (0.0, 0.8), "cover_y": (0.2, 0.7), "cover_lean": (0.0, 0.5),
    "cover_shade": (0.5, 0.5),
}
# fmt: on
CHUNK = 32 * 64 * 64  # pixels drawn at once: what the processor's cache holds

MOST = {"n": 1_000_000, "test": 1_000_000, "size": 1_024}


def faces(
    n: int = 2000,
    size: int = 64,
    seed: int = 0,
    test: int = 700,
    imbalance: bool = False,
    difficulty: float | int = 0.35,
    per_person: int = 1,
) -> Faces:
    """`n` training and `test` test faces, uint8 [n + test, 3, size, size]; nobody is in both.

    Face i of a split does not depend on how many there are. Classes take turns, or with `imbalance` every prefix keeps
    RAF-DB's proportions. `difficulty`, 0 to 1, weakens the expressions and spreads the photographs; `per_person`
    consecutive faces show one person. `meta`: "aus" float32 [n + test, 13] in the order of AUS and "intensity" float32
    [n + test], both 0 to 1, and "person" int64. Raises UserError where a number is out of range or a class stays empty.
    """
    ends = {"n": (n, 1), "size": (size, 16), "seed": (seed, 0), "test": (test, 1), "per_person": (per_person, 1)}
    for name, (value, low) in ends.items():
        high = MOST.get(name, 2**32 - 1)
        if not low <= value <= high:
            raise UserError(f"facs: {name} is {value}, expected {low:,} to {high:,}")
    if not 0 <= difficulty <= 1:
        raise UserError(f"facs: difficulty is {difficulty}, expected 0 to 1")
    parts, step = [], max(1, CHUNK // size**2)
    for name, split, count in (("n", TRAIN, n), ("test", TEST, test)):
        labels = turns(count, RAFDB if imbalance else (1,) * len(EMFACS))
        if len(set(labels.tolist())) < len(EMFACS):
            raise UserError(
                f"facs: {name} is {count}, too few for a face of every class; expected {19 if imbalance else 7} or more"
            )
        for start in range(0, count, step):
            parts.append(shoot(labels[start : start + step], start, size, (seed, split), difficulty, per_person))
    images, labels, aus, intensity, person = (np.concatenate(column) for column in zip(*parts))
    person[n:] += person[n - 1] + 1
    return Faces(
        name="facs",
        images=images,
        labels=labels,
        split=np.repeat(np.array([TRAIN, TEST], np.int8), [n, test]),
        classes=tuple(EMFACS),
        sources=np.array([f"train/{i}" for i in range(n)] + [f"test/{i}" for i in range(test)]),
        fingerprint=hashlib.sha256(images).hexdigest()[:16],
        notes={"seed": seed, "imbalance": imbalance, "difficulty": difficulty, "aus": list(AUS)},
        meta={"aus": aus, "intensity": intensity, "person": person},
    )


def turns(count: int, weights: tuple[int, ...]) -> Int64[np.ndarray, " {count}"]:
    """Labels: the class furthest behind its share is always next, so every prefix is in proportion."""
    share, drawn, labels = np.array(weights) / sum(weights), np.zeros(len(weights)), np.zeros(count, np.int64)
    for i in range(count):
        labels[i] = np.argmax(np.round(share * (i + 1) - drawn, 9))
        drawn[labels[i]] += 1
    return labels


def shoot(
    labels: Int64[np.ndarray, " b"], start: int, size: int, seed: tuple, difficulty: int | float, per_person: int
):
    """Faces `start`, `start` + 1, ... of a split, each from its own random stream."""
    index = start + np.arange(len(labels))
    owner = index // per_person
    person = sample(PERSON, [np.random.default_rng([*seed, 0, i]) for i in owner])
    streams = [np.random.default_rng([*seed, 1, i]) for i in index]
    photo = sample(
        {name: (at - difficulty * reach, at + difficulty * reach) for name, (at, reach) in PHOTO.items()}, streams
    )
    aus, intensity = express(labels, np.stack([stream.random(2 + 2 * len(AUS)) for stream in streams]), difficulty)
    grain = np.stack([stream.random((3, size, size), np.float32) for stream in streams])
    images = photograph(draw(person, move(person, aus), photo, size), photo, grain)
    return images, labels, aus.mean(1).astype(np.float32), intensity.astype(np.float32), owner


def sample(ranges: dict, streams: list[np.random.Generator]) -> SimpleNamespace:
    """A uniform value for every name, as float32 columns [b, 1, 1] that broadcast over pixels."""
    drawn = np.stack([stream.random(len(ranges)) for stream in streams])[:, :, None, None]
    values = [(low + (high - low) * drawn[:, i]).astype(np.float32) for i, (low, high) in enumerate(ranges.values())]
    return SimpleNamespace(**dict(zip(ranges, values)))


def express(
    labels: Int64[np.ndarray, " b"], drawn: Float[np.ndarray, "b r"], difficulty: int | float
) -> tuple[Float[np.ndarray, "b 2 u"], Float[np.ndarray, " b"]]:
    """Action units of both sides, and the intensity of the whole, from r = 2 + 2 u uniform numbers per face."""
    member = np.array([[au in units for au in AUS] for units in EMFACS.values()], float)[labels]
    faintest = 0.75 - 0.5 * difficulty
    intensity = (faintest + (1 - faintest) * drawn[:, 0]) * member.any(1)
    own, lopsided = 2 * drawn[:, 2:].reshape(-1, 2, len(AUS)).swapaxes(0, 1) - 1
    units = member * np.clip(intensity[:, None] * (1 + 0.5 * difficulty * own), 0, 1)
    tilt = difficulty * (0.3 * (2 * drawn[:, 1:2] - 1) + 0.1 * lopsided)  # one side of the face moves more
    return np.stack([units * (1 - tilt), units * (1 + tilt)], 1), intensity


def move(person: SimpleNamespace, aus: Float[np.ndarray, "b 2 u"]) -> list[SimpleNamespace]:
    """Landmarks of the left and of the right side: the person's own, moved by every unit in proportion."""
    rest = dict(vars(person), lip_low=np.maximum(person.parted, 0), brow_in=person.brow - person.brow_tilt)
    rest.update(brow_mid=person.brow - person.brow_arch, brow_out=person.brow + person.brow_tilt)
    sides = []
    for side in (0, 1):
        marks = {name: rest.get(name, 0 * person.brow) for moves in ACTIONS.values() for name in moves}
        for strength, moves in zip(aus[:, side].T.astype(np.float32), ACTIONS.values()):
            for name, reach in moves.items():
                marks[name] = marks[name] + reach * strength[:, None, None]
        sides.append(SimpleNamespace(**marks))
    return sides
