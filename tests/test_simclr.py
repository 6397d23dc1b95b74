"""The self-supervised start: its file, its record, and going on after an interruption."""

import json

import pytest
import torch
import toy
from safetensors import safe_open

from fercore import files
from fercore.encoders import ImageEncoder
from fercore.errors import UserError
from fercore.study import records
from fercore.training import pretrained, simclr
from fercore.training.simclr import Pretrain


def config(**changes):
    return Pretrain(**({"dataset": "own", "steps": 12, "image_size": toy.SIZE, "encoder": "toy", "batch": 8} | changes))


def run(config, root, results, **options):
    return simclr.run(config, data_root=root, results=results, device="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def whole(toy_root, tmp_path_factory):
    """A start, made without interruption."""
    results = tmp_path_factory.mktemp("start")
    return run(config(), toy_root, results, checkpoint_every=3), results


def test_loss_falls(toy_root, tmp_path):
    history = run(config(steps=60, lr=3e-3), toy_root, tmp_path, checkpoint_every=10)["history"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.1


def test_record_and_file(whole):
    record, results = whole
    path = simclr.file(results, config().key)
    assert records.read(results / "records.jsonl") == [json.loads(files.canonical(record))]
    assert record["key"] == config().key and record["kind"] == "pretrain" and record["status"] == "finished"
    assert record["start"]["sha256"] == pretrained.sha256(path)
    assert [entry["step"] for entry in record["history"]] == [3, 6, 9, 12]
    metrics = record["metrics"]
    assert 0 <= metrics["knn"] <= 1 and 0 <= metrics["linear_probe"] <= 1
    assert metrics["loss"] == record["history"][-1]["loss"]
    with safe_open(path, "pt") as tensors:
        assert json.loads(tensors.metadata()["pretrain"])["steps"] == 12
    left = {p.name for p in results.rglob("*") if p.is_file()}
    assert left == {path.name, "records.jsonl", "records.lock"}


def test_a_run_can_start_from_the_file(whole):
    record, results = whole
    model = ImageEncoder("toy", 3, seed=5)
    state = pretrained.tensors(simclr.file(results, record["key"]))
    assert pretrained.load(model.backbone, state, {}, "start") == 1.0
    fresh = ImageEncoder("toy", 3).state_dict()["backbone.0.weight"]  # where the pre-training itself began
    assert torch.equal(model.backbone[0].weight, state["0.weight"]) and not torch.equal(state["0.weight"], fresh)


def test_labels_play_no_part_in_the_weights(whole, tmp_path):
    # The same pictures in the same order under other names of classes, and so under other labels.
    names = ("x", "y", "z")
    root = toy.write_faces(tmp_path / "faces", classes=names)
    options = {"classes": ["z", "x", "y"]}
    other = run(config(dataset_options=options), root, tmp_path, checkpoint_every=3)
    one, two = (pretrained.tensors(simclr.file(p, r["key"])) for r, p in (whole, (other, tmp_path)))
    assert other["data"]["classes"] == options["classes"]
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("stop", [1, 4, 9, 12])
def test_resumed_anywhere_it_ends_in_the_same_file_and_record(stop, whole, toy_root, tmp_path, monkeypatch):
    plain, calls = simclr.info_nce, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(simclr, "info_nce", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config(), toy_root, tmp_path, checkpoint_every=3)
    assert not (tmp_path / "records.jsonl").exists() and not (tmp_path / "starts").exists()
    calls.clear()
    monkeypatch.setattr(simclr, "info_nce", lambda *args: calls.append(1) or plain(*args))
    record = run(config(), toy_root, tmp_path, checkpoint_every=3)
    assert len(calls) == 12 - 3 * ((stop - 1) // 3)  # from the last checkpoint on
    assert toy.content(record) == toy.content(whole[0])


def test_stopped_while_it_is_measured_no_start_is_left(whole, toy_root, tmp_path, monkeypatch):
    # A sweep takes a start that is there for finished: it must not be there before its record can be.
    def stopped(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simclr, "worth", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(config(), toy_root, tmp_path, checkpoint_every=3)
    assert not simclr.file(tmp_path, config().key).exists()
    assert toy.content(run(config(), toy_root, tmp_path, checkpoint_every=3)) == toy.content(whole[0])


def test_weights_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, model = tmp_path / "starts" / "x.safetensors", ImageEncoder("toy", 3)

    def cut_short(tensors, file, metadata):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(simclr, "save_file", cut_short)
        with pytest.raises(KeyboardInterrupt):
            simclr.write_weights(path, model, config())
    assert list(path.parent.iterdir()) == []


def test_key_tells_starts_apart():
    keys = {config(**c).key for c in ({}, {"steps": 13}, {"seed": 1}, {"image_size": 32}, {"temperature": 0.5})}
    assert len(keys) == 5 and config().key == config().key


@pytest.mark.parametrize("changes, message", [({"steps": 0}, "steps must be"), ({"batch": 1}, "batch at least 2")])
def test_bad_configuration(changes, message):
    with pytest.raises(UserError, match=message):
        config(**changes)
