"""The seven expressions, and every data set's own label order mapped onto them.

Inside the project there is one order, RAF-DB's. A wrong order costs accuracy without any error
(reported as 1.8 % for EfficientFace), so each order is written out once, here, as its authors index it.
"""

import numpy as np
from jaxtyping import Int, Int64

from fercore.errors import UserError

EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")

# Names in the order of the data set's own index, which starts at 0 unless FIRST says otherwise.
# fmt: off
ORDERS = {
    "rafdb": EXPRESSIONS,
    "adacm": EXPRESSIONS,  # the label files of Ada-CM and SIT-FER: RAF-DB's, minus 1
    "affectnet": ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt",
                  "none", "uncertain", "no face"),
    "fer2013": ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"),
    "expw": ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"),
    "ferplus": ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
                "unknown", "no face"),
    "ckplus": ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"),
    "sfew": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),  # alphabetical folders
    "affwild2": ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other"),
    "emotiefflib": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    "emotiefflib8": ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
}
# fmt: on
FIRST = {"rafdb": 1}

# How folders and headers spell them.
SPELLINGS = {name: name for name in EXPRESSIONS} | {
    "surprised": "surprise",
    "fearful": "fear",
    "disgusted": "disgust",
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
}


def spelled(word: str) -> str | None:
    """The expression that a folder or header means ("Angry", " happy" ...); None when it is none of the seven."""
    return SPELLINGS.get(word.strip().lower())


def decode(
    order: str, labels: Int[np.ndarray, " n"], classes: tuple[str, ...] = EXPRESSIONS
) -> Int64[np.ndarray, " n"]:
    """A data set's own labels [n] as indices into `classes`; -1 where the name is not among them.

    Raises UserError when a label is no index of that order.
    """
    names, first = ORDERS[order], FIRST.get(order, 0)
    table = np.array([classes.index(name) if name in classes else -1 for name in names], np.int64)
    index = np.asarray(labels, np.int64) - first
    if wrong := sorted(set(index[(index < 0) | (index >= len(names))].tolist())):
        raise UserError(f"{order}: label {wrong[0] + first} does not exist, expected {first}..{first + len(names) - 1}")
    return table[index]


def encode(order: str, labels: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Project labels [n] as the data set's own: the inverse of `decode` on the seven expressions."""
    names, first = ORDERS[order], FIRST.get(order, 0)
    return np.array([names.index(name) + first for name in EXPRESSIONS], np.int64)[labels]
