"""The cost of a run: counted images and operations, seconds from records or from a rate."""

import pytest
import synthetic
import torch

from fercore import files
from fercore.bench import step
from fercore.config import Run
from fercore.methods import METHODS
from fercore.study import cost, records

CPU = torch.device("cpu")
B, M = 3, 4  # labelled and unlabelled faces of a step
IMAGES = {  # the passes that the equations ask for: (with gradient, without)
    "supervised": (B, 0),
    "fullysupervised": (B, 0),
    "pseudolabel": (B + M, 0),
    "mixmatch": (B + 2 * M, 2 * M),
    "uda": (B + M, M),
    "remixmatch": (B + 3 * M + 2 * M, M),  # mixed: labelled, two strong, one weak; then plain and turned
    "marginmix": (B + 2 * M + B, 2 * M),
    "fixmatch": (B + M, M),
    "adacm": (B + 3 * M, 0),
    "lion": (B + M, 2 * M),
    "sitfer": (B + M, M),
    "flexmatch": (B + M, M),
    "simmatch": (B + M, M),
    "freematch": (B + M, M),
    "audit": (B + M, M),
}


def config(method="fixmatch", **changes):
    return Run("fer2013", method, 400, **({"steps": 1000, "batch": B, "unlabelled_batch": M} | changes))


@pytest.mark.parametrize("method", METHODS)
def test_images_of_a_step(method):
    assert tuple(cost.images(config(method))) == IMAGES[method]


def test_images_follow_variant_and_options():
    assert cost.images(config("remixmatch/authors")).trained == B + 9 * M + 2 * M  # K = 8
    assert cost.images(config("remixmatch", options={"strong": 1})).trained == B + 2 * M + 2 * M


def test_operations_of_an_image():
    forward = cost.operations("resnet18", 224).guessed
    assert forward == pytest.approx(2 * 1.814e9, rel=0.01)  # torchvision states 1.814 G multiply-adds
    assert cost.operations("resnet18", 448).guessed == pytest.approx(4 * forward, rel=0.001)
    # Backward is twice forward, but for the gradient of the pixels.
    assert 2.8 < cost.operations("resnet18", 224).trained / forward < 3


def test_work_is_steps_and_evaluations():
    one = cost.operations("resnet18", 48)
    wanted = 1000 * ((B + M) * one.trained + M * one.guessed) + 20 * 3589 * one.guessed
    assert cost.work(config(image_size=48)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "name, options, counts",
    [
        ("rafdb", {}, (12271, 3068)),
        ("sfew", {}, (958, 436)),
        ("affectnet", {}, (283901, 3500)),
        ("facs", {"n": 70}, (70, 700)),
        ("own", {}, None),
        ("expw", {}, None),
    ],
)
def test_faces_of_a_data_set(name, options, counts):
    assert cost.faces(name, options) == counts


# Time


def measured(method, seconds, **changes):
    """A record of this device at 1,000 steps."""
    record = synthetic.run("fixmatch", 0)
    record["config"] = config(method, **({"image_size": 48} | changes)).to_dict()
    where = {"device": records.device_name(CPU), "threads": torch.get_num_threads(), "precision": "fp32"}
    record["provenance"] = synthetic.PROVENANCE | where | {"seconds": seconds}
    return record | {"key": files.key_of(record["config"])}


@pytest.fixture
def no_bench(monkeypatch):
    monkeypatch.setattr(cost, "small", lambda *args: pytest.fail("timed, though there are records"))


def test_hours_are_those_of_records(monkeypatch):
    run = config(image_size=48, precision="fp32")
    known = [measured("fixmatch", 100.0, seed=seed) for seed in range(2)] + [measured("fixmatch", 400.0, seed=2)]
    time = cost.clock(run, CPU, known)
    assert time.seconds(run) == (100.0, True)
    assert time.seconds(config(image_size=48, steps=3000)) == (300.0, True)
    other, counted = config("mixmatch", image_size=48), cost.work(config("mixmatch", image_size=48))
    assert time.seconds(other) == (pytest.approx(100 * counted / cost.work(run)), False)
    assert not time.seconds(config(image_size=48, batch=8))[1]
    assert time.source == "the median of 3 records"


@pytest.mark.parametrize(
    "key, value",
    [("device", "cpu: another"), ("threads", 99), ("precision", "bf16"), ("image_size", 64), ("seconds", 0.0)],
)
def test_records_of_another_kind_give_no_hours(monkeypatch, key, value):
    record = measured("fixmatch", 100.0)
    part = "config" if key in record["config"] and key != "precision" else "provenance"
    record[part] |= {key: value}
    monkeypatch.setattr(step, "medians", lambda cases, repeats, device: dict.fromkeys(cases, 2000.0))
    run = config(image_size=48, precision="fp32")
    time = cost.clock(run, CPU, [record])
    per_step = cost.work(config(image_size=48, steps=1, evaluations=1)) - 3589 * cost.operations("resnet18", 48).guessed
    assert time.rate == pytest.approx(per_step / 2) and "measured now" in time.source
    assert time.seconds(run) == (pytest.approx(cost.work(run) / time.rate), False)


def test_the_rate_is_measured():
    time = cost.clock(config(image_size=24, encoder="toy", precision="fp32"), CPU, [])
    assert time.rate > 0 and not time.measured
