"""Label orders: what each index means, written a second time and otherwise, and the way back."""

import numpy as np
import pytest

from fercore.data.expressions import EXPRESSIONS, ORDERS, decode, encode, spelled
from fercore.errors import UserError

# (order, own index) -> expression, index by index as the data sets' own papers and readmes number them.
KNOWN = {
    "rafdb": "1 surprise 2 fear 3 disgust 4 happiness 5 sadness 6 anger 7 neutral",
    "adacm": "0 surprise 1 fear 2 disgust 3 happiness 4 sadness 5 anger 6 neutral",
    "affectnet": "0 neutral 1 happiness 2 sadness 3 surprise 4 fear 5 disgust 6 anger 7 - 8 - 9 - 10 -",
    "fer2013": "0 anger 1 disgust 2 fear 3 happiness 4 sadness 5 surprise 6 neutral",
    "expw": "0 anger 1 disgust 2 fear 3 happiness 4 sadness 5 surprise 6 neutral",
    "ferplus": "0 neutral 1 happiness 2 surprise 3 sadness 4 anger 5 disgust 6 fear 7 - 8 - 9 -",
    "ckplus": "0 neutral 1 anger 2 - 3 disgust 4 fear 5 happiness 6 sadness 7 surprise",
    "sfew": "0 anger 1 disgust 2 fear 3 happiness 4 neutral 5 sadness 6 surprise",
    "affwild2": "0 neutral 1 anger 2 disgust 3 fear 4 happiness 5 sadness 6 surprise 7 -",
    "emotiefflib": "0 anger 1 disgust 2 fear 3 happiness 4 neutral 5 sadness 6 surprise",
    "emotiefflib8": "0 anger 1 - 2 disgust 3 fear 4 happiness 5 neutral 6 sadness 7 surprise",
}


def test_every_order_is_known_here():
    assert set(KNOWN) == set(ORDERS)


@pytest.mark.parametrize("order", KNOWN)
def test_order(order):
    words = KNOWN[order].split()
    own = np.array([int(word) for word in words[::2]])
    names = [EXPRESSIONS[label] if label >= 0 else "-" for label in decode(order, own)]
    assert names == words[1::2]


@pytest.mark.parametrize("order", KNOWN)
def test_round_trip(order):
    labels = np.random.default_rng(0).integers(0, 7, 100)
    np.testing.assert_array_equal(decode(order, encode(order, labels)), labels)


@pytest.mark.parametrize(("order", "label"), [("rafdb", 0), ("rafdb", 8), ("fer2013", 7), ("affwild2", -1)])
def test_label_outside_the_order(order, label):
    with pytest.raises(UserError, match=f"{order}: label {label} does not exist"):
        decode(order, np.array([1, label]))


def test_folders_in_alphabetical_order_are_sfews():
    folders = ["Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]
    assert tuple(map(spelled, folders)) == ORDERS["sfew"]
    assert spelled("contempt") is None
