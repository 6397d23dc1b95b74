"""The self-supervised start: its file, its record, and going on after an interruption."""

import json
import os
import shutil

import pytest
import torch
import toy

from fercore import files, tensors
from fercore.config import Run
from fercore.encoders import ImageEncoder
from fercore.errors import RunFailed, UserError
from fercore.study import records, starts
from fercore.training import pretrained, simclr
from fercore.training.checkpoint import Checkpoint
from fercore.training.simclr import Pretrain


def config(**changes):
    return Pretrain(**({"dataset": "own", "steps": 6, "image_size": toy.SIZE, "encoder": "toy", "batch": 8} | changes))


def train(config, root, **options):
    """The training itself; nothing is stored."""
    return simclr.run(config, toy.data(config, root), device=toy.CPU, progress=False, **options)


def make(config, root, results, **options):
    return starts.make(config, data_root=root, results=results, device="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def whole(toy_root, tmp_path_factory):
    """A start of a study, made without interruption."""
    results = tmp_path_factory.mktemp("start")
    return make(config(), toy_root, results, checkpoint_every=2), results


def test_loss_falls(toy_root, tmp_path):
    history = train(config(steps=40, lr=3e-3), toy_root, checkpoint=Checkpoint(tmp_path / "x.pt", 10)).record["history"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.1


def test_a_pretraining_that_diverges_says_so_and_leaves_the_checkpoint_before(toy_root, tmp_path):
    saved = Checkpoint(tmp_path / "x.pt", 1)
    with pytest.raises(RunFailed, match=r"not finite (at|after) step"):
        train(config(lr=1e30, warmup=0.0), toy_root, checkpoint=saved)
    assert all(tensor.isfinite().all() for tensor in saved.load(toy.CPU)["model"].values())


def test_record_and_file(whole):
    record, results = whole
    path = starts.file(results, config().key)
    assert records.read(results / "records.jsonl") == [json.loads(files.canonical(record))]
    assert record["key"] == config().key and record["kind"] == "pretrain" and record["status"] == "finished"
    assert record["start"]["sha256"] == files.sha256(path)
    assert [entry["step"] for entry in record["history"]] == [2, 4, 6]
    metrics = record["metrics"]
    assert 0 <= metrics["knn"] <= 1 and 0 <= metrics["linear_probe"] <= 1
    assert metrics["loss"] == record["history"][-1]["loss"]
    assert json.loads(tensors.load(path)[1]["pretrain"])["steps"] == 6
    left = {p.name for p in results.rglob("*") if p.is_file()}
    assert left == {path.name, "records.jsonl", "records.lock"}


def test_a_run_can_start_from_the_file(whole):
    record, results = whole
    start = starts.of(Run("own", "supervised", 9, start=f"pretrain:{record['key']}"), results)
    assert start.summary() == {"kind": "pretrain", "sha256": record["start"]["sha256"], "key": record["key"]}
    model = ImageEncoder("toy", 3, seed=5)
    assert pretrained.load(model.backbone, start) == 1.0
    fresh = ImageEncoder("toy", 3).state_dict()["backbone.0.weight"]  # where the pre-training itself began
    assert torch.equal(model.backbone[0].weight, start.tensors["0.weight"])
    assert not torch.equal(start.tensors["0.weight"], fresh)


def test_labels_play_no_part_in_the_weights(whole, tmp_path):
    # The same pictures in the same order under other names of classes, and so under other labels.
    root = toy.write_faces(tmp_path / "faces", classes=("x", "y", "z"))
    options = {"classes": ["z", "x", "y"]}
    other = train(config(dataset_options=options), root)
    stored = pretrained.tensors(starts.file(whole[1], whole[0]["key"]))
    assert other.record["data"]["classes"] == options["classes"]
    assert stored.keys() == other.tensors.keys() and all(torch.equal(stored[k], v) for k, v in other.tensors.items())


@pytest.mark.parametrize("at", [2, 6])
def test_resumed_from_any_checkpoint_it_ends_in_the_same_weights_and_record(at, whole, toy_root, tmp_path, monkeypatch):
    first, second = (Checkpoint(tmp_path / f"{name}.pt", 2) for name in ("first", "second"))
    save, loss, steps = Checkpoint.save, simclr.info_nce, []

    def keep(checkpoint, state):
        save(checkpoint, state)
        if state["step"] == at and not second.path.exists():
            shutil.copy(first.path, second.path)

    monkeypatch.setattr(Checkpoint, "save", keep)
    expected = train(config(), toy_root, checkpoint=first)
    monkeypatch.setattr(simclr, "info_nce", lambda *args: steps.append(1) or loss(*args))
    got = train(config(), toy_root, checkpoint=second)
    assert len(steps) == 6 - at
    assert got.record == expected.record and whole[0].items() >= expected.record.items()
    assert all(torch.equal(got.tensors[k], v) for k, v in expected.tensors.items())


@pytest.mark.parametrize("place, name", [(simclr, "info_nce"), (simclr, "worth"), (os, "fsync")])
def test_stopped_anywhere_no_start_is_left_and_it_goes_on(place, name, whole, toy_root, tmp_path, monkeypatch):
    # A sweep takes a start that is there for finished: it must not be there before its record can be.
    def stopped(*args, **kwargs):
        if name != "fsync" or any(tmp_path.glob("starts/.*.tmp")):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, name, stopped)
        make(config(), toy_root, tmp_path, checkpoint_every=2)
    assert not (tmp_path / "records.jsonl").exists()
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".pt"] == []
    assert toy.content(make(config(), toy_root, tmp_path, checkpoint_every=2)) == toy.content(whole[0])


def test_key_tells_starts_apart():
    keys = {config(**c).key for c in ({}, {"steps": 13}, {"seed": 1}, {"image_size": 32}, {"temperature": 0.5})}
    assert len(keys) == 5 and config().key == config().key


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps: expected greater than or equal to 1, got 0"),
        ({"batch": 1}, "batch: expected greater than or equal to 2, got 1"),
    ],
)
def test_bad_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_rate_warms_up_and_falls_to_zero():
    long = config(steps=100, warmup=0.1, lr=2.0)
    assert [simclr.rate(long, step) for step in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert simclr.rate(long, 55) == pytest.approx(1.0)  # half of the cosine
    assert 0 < simclr.rate(long, 99) < 0.01
