"""The loop: averages, batches, resuming after a kill, hidden labels, and what a record holds."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import toy

from fercore import files, paths
from fercore.config import Run
from fercore.encoders import ImageEncoder
from fercore.errors import UserError
from fercore.fusion import fuse
from fercore.methods import METHODS, adacm, sitfer
from fercore.methods.api import Step
from fercore.study import records
from fercore.training import checkpoint, loop, metrics
from fercore.training.rng import batch_indices, generator


def run(config, root, results, **options):
    return loop.run(config, data_root=root, results=results, device="cpu", progress=False, **options)


def set_up(config, root, tmp_path):
    return loop.set_up(config, root, tmp_path, "cpu")


def leftovers(results):
    """Files that are neither records nor their lock."""
    return [p.name for p in results.rglob("*") if p.is_file() and p.name not in ("records.jsonl", "records.lock")]


# Averages


def test_ema_as_a_loop_with_its_warm_up():
    torch.manual_seed(0)
    model = ImageEncoder("toy", 3)
    ema = loop.EMA(model, 0.9)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    for step in range(100):
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn_like(value))
            else:
                value.add_(1)
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            # Running means and variances are averaged like the weights; only the counter is copied.
            expected[key] = decay * expected[key] + (1 - decay) * value if value.is_floating_point() else value.clone()
        if step in (0, 20, 99):
            for key, value in ema.model.state_dict().items():
                assert torch.allclose(value.float(), expected[key].float(), atol=1e-4), (step, key)
    assert decay == 0.9 and any("running_var" in key for key in expected)


def test_ema_switched_off_is_the_model_itself():
    model = ImageEncoder("toy", 3)
    ema = loop.EMA(model, 0.0)
    model.classifier.weight.data += 1
    ema.update(model, 50)
    assert all(torch.equal(a, b) for a, b in zip(ema.model.state_dict().values(), model.state_dict().values()))
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())


def test_tally_as_a_loop():
    tally, seen = loop.Tally(), []
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        levels = {name: torch.randn(5, 3, generator=g).softmax(1) for name in ("semantic", "text")}
        target, keep = fuse(levels), torch.rand(5, generator=g) < 0.5
        truth = torch.randint(3, (5,), generator=g)
        loss = torch.rand((), generator=g)
        tally.add(Step(2 * loss, {"labelled": loss}, target, keep, levels), truth)
        seen.append((loss, target.argmax(1), keep, truth, levels))
    out = tally.read()
    rows = [(int(n), bool(k), int(t)) for _, name, keep, truth, _ in seen for n, k, t in zip(name, keep, truth)]
    assert out["loss"]["labelled"] == pytest.approx(sum(float(s[0]) for s in seen) / 3, abs=1e-5)
    assert out["loss"]["total"] == pytest.approx(2 * out["loss"]["labelled"], abs=2e-5)
    assert out["kept"] == pytest.approx(sum(k for _, k, _ in rows) / 15, abs=1e-5)
    assert out["pseudo_accuracy"] == pytest.approx(sum(n == t for n, _, t in rows) / 15, abs=1e-5)
    kept = [(n, t) for n, k, t in rows if k]
    assert out["pseudo_accuracy_kept"] == pytest.approx(sum(n == t for n, t in kept) / len(kept), abs=1e-5)
    assert out["pseudo_counts"] == [sum(n == c for n, _ in kept) for c in range(3)]
    for level in ("semantic", "text"):
        right = sum(int((s[4][level].argmax(1) == s[3]).sum()) for s in seen)
        assert out["level_accuracy"][level] == pytest.approx(right / 15, abs=1e-5)
    assert out["level_accuracy"]["fused"] == out["pseudo_accuracy"]  # no alignment in between, here
    assert tally.sums == {}


def test_tally_without_a_kept_face():
    tally = loop.Tally()
    p = torch.full((4, 3), 1 / 3)
    zero = torch.zeros(())
    tally.add(Step(zero, {"labelled": zero}, p, torch.zeros(4, dtype=torch.bool), {"semantic": p}), torch.arange(4) % 3)
    out = tally.read()
    assert out["kept"] == 0 and out["pseudo_accuracy_kept"] is None and out["pseudo_counts"] == [0, 0, 0]


# Random numbers and batches


@pytest.mark.parametrize("n, size", [(10, 4), (7, 7), (5, 16), (9, 3), (1, 4)])
def test_every_face_is_seen_once_before_any_is_seen_twice(n, size):
    pool = torch.arange(100, 100 + n)
    stream = torch.cat([batch_indices(pool, size, step, 0, "labelled") for step in range(3 * n)])
    assert len(stream) == 3 * n * size
    for start in range(0, len(stream) - n + 1, n):
        assert sorted(stream[start : start + n].tolist()) == pool.tolist()
    if n > 4:
        assert stream[:n].tolist() != stream[n : 2 * n].tolist()  # each pass in its own order


def test_batches_are_a_pure_function_of_seed_stream_and_step():
    pool = torch.arange(50)
    one = batch_indices(pool, 8, 5, 0, "labelled")
    torch.manual_seed(3)
    assert torch.equal(one, batch_indices(pool, 8, 5, 0, "labelled"))
    others = [(8, 6, 0, "labelled"), (8, 5, 1, "labelled"), (8, 5, 0, "unlabelled")]
    assert all(not torch.equal(one, batch_indices(pool, *other)) for other in others)


def test_generators_differ_by_seed_stream_and_step():
    draws = [torch.rand(4, generator=generator(*key)) for key in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))]
    assert all(not torch.equal(draws[i], draws[j]) for i in range(4) for j in range(i))
    assert torch.equal(draws[0], torch.rand(4, generator=generator(0, "a")))


def test_one_view_more_does_not_shift_the_labelled_batches(toy_root, tmp_path, monkeypatch):
    batches = {}
    for name, views in (("supervised", None), ("fixmatch", None), ("sitfer", {"weak": 2, "strong": 3})):
        if views:
            monkeypatch.setattr(sitfer, "VIEWS", views)
        training = set_up(toy.config(name), toy_root, tmp_path)
        batches[name] = [loop.make_batch(training, step) for step in range(4)]
    for (one, _), (two, hidden), (three, _) in zip(*batches.values()):
        assert torch.equal(one.labelled, two.labelled) and torch.equal(one.labelled, three.labelled)
        assert torch.equal(one.labels, three.labels) and torch.equal(one.labelled_slots, three.labelled_slots)
        assert torch.equal(two.weak[0], three.weak[0]) and torch.equal(two.strong[0], three.strong[0])
        assert not torch.equal(three.weak[0], three.weak[1])
        assert len(three.weak) == 2 and len(three.strong) == 3 and not one.weak
        assert hidden is not None and len(one.unlabelled_slots) == 0


def test_slots_are_positions_in_the_pool(toy_root, tmp_path):
    training = set_up(toy.config(), toy_root, tmp_path)
    for step in range(6):
        batch, hidden = loop.make_batch(training, step)
        pool, labels = training.data.pool, training.data.faces.labels
        assert batch.labels.tolist() == labels[pool[batch.labelled_slots]].tolist()
        assert hidden.tolist() == labels[pool[batch.unlabelled_slots]].tolist()
        assert set(batch.labelled_slots.tolist()) <= set(training.split.labelled.tolist())
        assert set(batch.unlabelled_slots.tolist()) <= set(training.split.unlabelled.tolist())


# Evaluation


def test_evaluation_is_of_the_averaged_model_and_reports_the_best_apart(toy_root, tmp_path, monkeypatch):
    training = set_up(toy.config("sitfer", ema=0.9), toy_root, tmp_path)
    loop.prepare(training)
    for step in range(4):
        loop.train_step(training, step)
    rows = training.data.test
    alone, fused = loop.evaluate(training, rows)
    x = loop.augment.centre(torch.from_numpy(np.ascontiguousarray(training.data.faces.images[rows])), toy.SIZE)
    output = training.ema.model(x)
    assert torch.allclose(alone, output.logits.softmax(1), atol=1e-6)
    levels = sitfer.levels(training.ema.model, output, training.state, training.options)
    assert torch.allclose(fused, sum(levels.values()) / 3, atol=1e-6)
    assert not torch.allclose(alone, training.model.eval()(x).logits.softmax(1), atol=1e-4)


def test_best_last_and_selected(toy_root, tmp_path, monkeypatch):
    training = set_up(toy.config("supervised", labels=12, validation=0.25), toy_root, tmp_path)
    scores = {"test": [0.2, 0.6, 0.4, 0.6, 0.3, 0.5], "validation": [0.5, 0.1, 0.9, 0.9, 0.2, 0.3]}
    turn = {}

    def evaluate(run, rows):
        turn["of"] = "test" if len(rows) == len(run.data.test) else "validation"
        return torch.full((len(rows), 3), 1 / 3), None

    def evaluation(p, truth, step):
        accuracy = scores[turn["of"]][step]
        return {"step": step, "accuracy": accuracy, "macro_f1": accuracy, "ece": 0.0, "recall": [], "confusion": []}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(metrics, "evaluation", evaluation)
    for step in range(6):
        training.step = step
        training.tally.add(Step(torch.zeros(()), {"labelled": torch.zeros(())}), None)
        loop.log_evaluation(training)
    out = loop.summary(training)
    assert out["fused"] is None
    head = out["classifier"]
    assert head["last"]["step"] == 5 and head["best_on_test"]["step"] == 1  # the first of equals
    assert head["selected"]["step"] == 2  # by validation, whatever the test says
    assert head["mean_last5"]["accuracy"] == pytest.approx((0.6 + 0.4 + 0.6 + 0.3 + 0.5) / 5)


def test_validation_faces_are_neither_learnt_from_nor_tested_on(toy_root, tmp_path):
    record = run(toy.config(labels=12, validation=0.25, steps=4), toy_root, tmp_path)
    split = record["split"]
    assert len(split["validation"]) == 3 and len(split["labelled"]) == 9
    assert not set(split["validation"]) & set(split["labelled"])
    assert split["unlabelled"] == 48 - 12
    assert record["history"][-1]["validation"].keys() == {"accuracy", "macro_f1", "ece"}
    assert record["metrics"]["classifier"]["selected"] is not None


# A run and its record


@pytest.fixture(scope="module")
def whole(toy_root, tmp_path_factory):
    """One uninterrupted run and the folder that it left."""
    results = tmp_path_factory.mktemp("whole")
    return run(toy.config(steps=30, evaluations=6), toy_root, results, checkpoint_every=7), results


def test_loss_falls(whole):
    history = whole[0]["history"]
    assert history[-1]["loss"]["labelled"] < history[0]["loss"]["labelled"]
    assert history[-1]["loss"]["total"] < history[0]["loss"]["total"]


def test_record_holds_what_it_should(whole, toy_root):
    record, results = whole
    config = toy.config(steps=30, evaluations=6)
    assert records.read(results / "records.jsonl") == [json.loads(files.canonical(record))]
    assert record["key"] == config.key and record["config"] == config.to_dict()
    assert record["kind"] == "run" and record["status"] == "finished"
    assert record["data"]["train"] == 48 and record["data"]["test"] == 18
    assert record["data"]["classes"] == list(toy.CLASSES)
    assert record["split"]["counts"] == [3, 3, 3] and len(record["split"]["labelled"]) == 9
    assert record["split"]["unlabelled"] == 39
    assert record["start"] == {"kind": "none", "sha256": None, "matched": 0.0, "key": None}
    assert [entry["step"] for entry in record["history"]] == [5, 10, 15, 20, 25, 30]
    for entry in record["history"]:
        assert {"loss", "kept", "pseudo_accuracy", "pseudo_accuracy_kept", "level_accuracy"} <= set(entry)
        assert set(entry["loss"]) == {"labelled", "text", "unlabelled", "total"}
        assert set(entry["level_accuracy"]) == {"semantic", "text", "instance", "fused"}
        assert 9 <= entry["memory"] <= 48 and len(entry["pseudo_counts"]) == 3
    for head in ("classifier", "fused"):
        last = record["metrics"][head]["last"]
        assert last["step"] == 30 and sum(map(sum, last["confusion"])) == 18 and last["accuracy"] <= 1
        assert record["metrics"][head]["best_on_test"]["accuracy"] >= last["accuracy"]
        mean = sum(entry[head]["accuracy"] for entry in record["history"][-5:]) / 5
        assert record["metrics"][head]["mean_last5"]["accuracy"] == pytest.approx(mean, abs=1e-5)
    provenance = record["provenance"]
    assert {"commit", "dirty", "source", "versions", "device", "threads", "precision", "seconds"} <= set(provenance)
    assert str(toy_root) not in files.canonical(record)
    assert leftovers(results) == []  # the checkpoint goes when the record is there


def test_a_finished_run_is_not_trained_again(whole, toy_root, monkeypatch):
    record, results = whole
    monkeypatch.setattr(loop, "set_up", lambda *args: pytest.fail("trained again"))
    assert run(toy.config(steps=30, evaluations=6), toy_root, results) == record


def test_equal_configurations_give_equal_records(whole, toy_root, tmp_path):
    again = run(toy.config(steps=30, evaluations=6), toy_root, tmp_path, checkpoint_every=1000)
    assert toy.content(again) == toy.content(whole[0])
    other = run(toy.config(steps=30, evaluations=6, seed=1), toy_root, tmp_path)
    assert other["history"] != again["history"] and other["split"] == again["split"]


@pytest.mark.parametrize("steps, evaluations", [(7, 3), (8, 8), (5, 1), (20, 7)])
def test_evaluations_are_as_many_as_asked_and_the_last_is_at_the_end(toy_root, tmp_path, steps, evaluations):
    config = toy.config("supervised", steps=steps, evaluations=evaluations)
    at = [entry["step"] for entry in run(config, toy_root, tmp_path)["history"]]
    assert len(at) == evaluations and at[-1] == steps and at == sorted(set(at))


def test_hidden_labels_never_change_the_loss(toy_root, tmp_path):
    ends = []
    for permuted in (False, True):
        training = set_up(toy.config("sitfer", options={"tau": 0.4, "delta": 0.5}), toy_root, tmp_path)
        if permuted:
            labels = training.labels.clone()
            rows = training.data.pool[training.split.unlabelled]
            labels[rows] = labels[rows].roll(5)
            assert not torch.equal(labels, training.labels)
            training.labels = labels
        loop.prepare(training)
        for step in range(8):
            loop.train_step(training, step)
        ends.append((training.model.state_dict(), training.state.state_dict(), training.tally.read()))
    for a, b in zip(ends[0][:2], ends[1][:2]):
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert ends[0][2]["loss"] == ends[1][2]["loss"] and ends[0][2]["kept"] == ends[1][2]["kept"] > 0
    # The diagnostics do look at them: else this test would see nothing.
    assert ends[0][2]["pseudo_accuracy"] != ends[1][2]["pseudo_accuracy"]


def test_training_takes_in_no_test_face(toy_root, tmp_path, monkeypatch):
    training = set_up(toy.config(), toy_root, tmp_path)
    reached = set()
    plain = loop.gather
    monkeypatch.setattr(loop, "gather", lambda run, rows: reached.update(rows.tolist()) or plain(run, rows))
    for step in range(10):
        loop.make_batch(training, step)
    assert reached and not reached & set(training.data.test.tolist())


def test_a_loop_that_knows_no_method_by_name(toy_root, tmp_path, monkeypatch):
    # One file and one line in the registry: here without the file.
    method = ModuleType("another")
    vars(method).update({k: getattr(METHODS["supervised"], k) for k in ("Config", "VIEWS", "step")})
    monkeypatch.setitem(METHODS, "another", method)
    one, two = (run(toy.config(name, steps=3), toy_root, tmp_path) for name in ("supervised", "another"))
    assert one["history"] == two["history"]


# Methods that count in epochs, and methods with parameters


@pytest.mark.parametrize("steps, epochs, calls", [(40, 20, 20), (50, 20, 20), (21, 4, 4), (7, 7, 7), (5, 8, 5)])
def test_refresh_is_called_after_each_epoch(steps, epochs, calls, toy_root, tmp_path, monkeypatch):
    training = set_up(toy.config("adacm", steps=steps, options={"epochs": epochs}), toy_root, tmp_path)
    at = []
    monkeypatch.setattr(adacm, "refresh", lambda *args: at.append(training.step))
    for training.step in range(1, steps + 1):
        loop.refresh(training)
    assert len(at) == calls and at[-1] == steps and max(b - a for a, b in zip([0, *at], at)) <= -(-steps // calls)


def test_refresh_sees_all_labelled_faces_plainly_through_the_averaged_model(toy_root, tmp_path, monkeypatch):
    training = set_up(toy.config("adacm", ema=0.9, options={"epochs": 1}), toy_root, tmp_path)
    for step in range(3):
        loop.train_step(training, step)
    got = []
    monkeypatch.setattr(adacm, "refresh", lambda encode, *rest: got.extend((encode(), *rest)))
    training.step = training.config.steps
    loop.refresh(training)
    output, slots, labels, state, options = got
    rows = training.data.pool[training.split.labelled]
    images = loop.augment.centre(torch.from_numpy(np.ascontiguousarray(training.data.faces.images[rows])), toy.SIZE)
    assert torch.equal(output.logits, training.ema.model(images).logits) and not output.logits.requires_grad
    assert slots.tolist() == training.split.labelled.tolist()
    assert labels.tolist() == training.data.faces.labels[rows].tolist()
    assert state is training.state and options is training.options


def test_parameters_of_the_state_are_trained_and_checkpointed(toy_root, tmp_path):
    training = set_up(toy.config("remixmatch"), toy_root, tmp_path)
    loop.prepare(training)
    before = training.state.angle.weight.clone()
    for step in range(3):
        loop.train_step(training, step)
    saved = copy.deepcopy(training.state_dict())
    assert not torch.equal(training.state.angle.weight, before)
    assert {"angle.weight", "alignment.means", "alignment.target"} <= set(saved["state"])
    again = set_up(toy.config("remixmatch"), toy_root, tmp_path)
    assert torch.equal(again.state.angle.weight, before)  # of the seed alone
    again.load_state_dict(saved)
    for run_ in (training, again):
        loop.train_step(run_, 3)
    assert torch.equal(again.state.angle.weight, training.state.angle.weight)  # and so its moments were there
    other = set_up(toy.config("remixmatch", seed=1), toy_root, tmp_path)
    assert not torch.equal(other.state.angle.weight, before)


# Interruptions


WITH_STATE = [name for name, method in METHODS.items() if hasattr(method, "state")]


@pytest.mark.parametrize("method", ["supervised", "fixmatch", *WITH_STATE, "audit/released"])
def test_resumed_anywhere_a_run_ends_in_the_same_record(method, toy_root, tmp_path, monkeypatch):
    options = {"epochs": 5} if method in ("adacm", "lion") else {}
    config = toy.config(method, steps=10, evaluations=5, labels=12, validation=0.25, options=options)
    expected = run(config, toy_root, tmp_path / "whole")
    plain = loop.train_step
    thorough = method in ("supervised", "fixmatch", "sitfer")
    for stop, every in ((4, 3), (7, 2), (10, 3), (1, 5)) if thorough else ((7, 2),):
        results = tmp_path / f"stopped{stop}"

        def interrupted(training, step, stop=stop):
            plain(training, step)
            if step + 1 == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(loop, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, toy_root, results, checkpoint_every=every)
        assert records.read(results / "records.jsonl") == []
        assert leftovers(results) == ([f"{config.key}.pt"] if stop > every else [])
        monkeypatch.setattr(loop, "train_step", plain)
        assert toy.content(run(config, toy_root, results, checkpoint_every=every)) == toy.content(expected)
        assert leftovers(results) == []


def test_stopped_between_the_last_step_and_the_record(toy_root, tmp_path, monkeypatch):
    config = toy.config(steps=6)
    expected = run(config, toy_root, tmp_path / "whole")
    append = records.append

    def killed(path, record):
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config, toy_root, tmp_path / "stopped")
    monkeypatch.setattr(records, "append", append)
    monkeypatch.setattr(loop, "train_step", lambda *args: pytest.fail("trained again"))
    assert toy.content(run(config, toy_root, tmp_path / "stopped")) == toy.content(expected)


def test_interrupted_while_a_checkpoint_is_written(toy_root, tmp_path, monkeypatch):
    config = toy.config(steps=6)
    save, calls = torch.save, []

    def cut_short(state, path):
        calls.append(path)
        save(state, path)
        if len(calls) == 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        run(config, toy_root, tmp_path, checkpoint_every=2)
    assert leftovers(tmp_path) == [f"{config.key}.pt"]
    state = checkpoint.load(tmp_path / "checkpoints" / f"{config.key}.pt", torch.device("cpu"))
    assert state["step"] == 2  # the one before is whole


def test_damaged_checkpoint(toy_root, tmp_path):
    config = toy.config(steps=4)
    path = tmp_path / "checkpoints" / f"{config.key}.pt"
    path.parent.mkdir()
    for data in (b"", b"hello, this is text", bytes(range(256))):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"damaged checkpoint .*delete it"):
            run(config, toy_root, tmp_path)
    path.unlink()
    assert run(config, toy_root, tmp_path)["status"] == "finished"


def command(root, results):
    """A run as somebody types it, but with the encoder of two layers."""
    here = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import toy"
    return [
        sys.executable, "-c", f"{here}; from fercore.cli import main; main()", "train", "--dataset", "own",
        "--data-root", str(root), "--results", str(results), "--method", "sitfer", "--labels", "9", "--steps", "150",
        "--evaluations", "3", "--batch", "6", "--unlabelled-batch", "6", "--image-size", str(toy.SIZE), "--encoder",
        "toy", "--text", "orthogonal", "--lr", "0.003", "--checkpoint-every", "5", "--device", "cpu", "--precision",
        "fp32",
    ]  # fmt: skip


def interrupt(arguments, results, number, delay=0.0):
    """Start, send a signal `delay` seconds after the first new checkpoint, return (exit code, stderr)."""
    folder = results / "checkpoints"
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.pt")}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while {p.name: p.stat().st_mtime_ns for p in folder.glob("*.pt")} == before:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_killed_for_real_and_started_again(toy_root, tmp_path):
    config, results = toy.config(steps=150, evaluations=3), tmp_path / "killed"
    arguments = command(toy_root, results)
    code, errors = interrupt(arguments, results, signal.SIGINT)
    assert code == 130 and "Traceback" not in errors
    assert not (results / "records.jsonl").exists()
    assert leftovers(results) == [f"{config.key}.pt"]  # and nothing half-written
    code, _ = interrupt(arguments, results, signal.SIGKILL, delay=random.uniform(0, 0.3))
    assert code == -signal.SIGKILL and not (results / "records.jsonl").exists()
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    assert [record] == records.read(results / "records.jsonl")
    expected = run(config, toy_root, tmp_path / "whole")
    assert toy.content(record) == toy.content(json.loads(files.canonical(expected)))


# Bad input


def test_more_labels_than_a_class_has(toy_root, tmp_path):
    with pytest.raises(UserError, match=r"own: 60 labels asked for, the training set has 48"):
        run(toy.config(labels=60), toy_root, tmp_path)


def test_nothing_left_unlabelled(toy_root, tmp_path):
    with pytest.raises(UserError, match=r"with 48 labels no face is left unlabelled"):
        run(toy.config("fixmatch", labels=48), toy_root, tmp_path)
    assert run(toy.config("supervised", labels=48, steps=2), toy_root, tmp_path)["split"]["unlabelled"] == 0
    with_labelled = toy.config("fixmatch", labels=48, steps=2, include_labelled=True)
    assert run(with_labelled, toy_root, tmp_path)["split"]["unlabelled"] == 48


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"start": "imagnet"}, r"start: 'imagnet' is unknown; use none, imagenet"),
        ({"start": "file:"}, r"start: 'file:' is unknown"),
        ({"start": "file:absent.pt"}, r"absent.pt: no such weights file"),
        ({"start": "pretrain:0123456789abcdef"}, r"0123456789abcdef.safetensors: this start is missing"),
        ({"encoder": "resnet99"}, r"encoder: 'resnet99' is unknown"),
        ({"precision": "fp8"}, r"precision: 'fp8' is unknown"),
        ({"text": "word2vec"}, r"text: 'word2vec' is unknown"),
        ({"dataset": "fer2012"}, r"unknown data set 'fer2012'"),
        ({"dataset_options": {"sizes": 3}}, r"own: unknown option 'sizes'"),
    ],
)
def test_bad_configuration(changes, message, toy_root, tmp_path):
    with pytest.raises(UserError, match=message):
        run(toy.config(**changes), toy_root, tmp_path)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lr": "3e-4"}, r"lr: expected a number, got '3e-4'; .*3\.0e-4"),
        ({"steps": 2.5}, r"steps: expected a whole number, got 2.5"),
        ({"labels": "many"}, r"labels: expected a whole number"),
        ({"options": None}, r"options: expected keys and values, got None"),
        ({"steps": 0}, r"at least 1"),
        ({"evaluations": 9}, r"evaluations: 9 does not lie between 1 and steps \(8\)"),
        ({"schedule": "step"}, r"schedule: 'step' is unknown; choose one of constant, cosine"),
        ({"ema": 1.0}, r"less than 1"),
        ({"validation": -0.1}, r"at least 0"),
    ],
)
def test_bad_value(changes, message):
    with pytest.raises(UserError, match=message):
        Run.from_dict({**toy.config().to_dict(), **changes})


def test_configuration_and_back():
    config = toy.config("sitfer/text", options={"tau": 0.7})
    assert Run.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(UserError, match="unknown key tau"):
        Run.from_dict({**config.to_dict(), "tau": 1})


def test_key_is_of_the_configuration_alone():
    config = toy.config()
    assert config.key == copy.deepcopy(config).key and len(config.key) == 16
    assert Run.from_dict({**config.to_dict(), "ema": 0}).key == toy.config(ema=0.0).key
    assert len({toy.config(**change).key for change in ({}, {"seed": 1}, {"split_seed": 1}, {"lr": 0.1})}) == 4
    # Written down: records of other machines and of earlier commits must be found again.
    assert Run("fer2013", "sitfer", 2000, steps=4000).key == "0eebc50aeb766567"


def test_devices(monkeypatch):
    from fercore.training import devices

    with pytest.raises(UserError, match="device: 'gpu' is unknown"):
        devices.choose("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose() == torch.device("cpu")
    with pytest.raises(UserError, match="no CUDA device"):
        devices.choose("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    # As tensors report it: else every batch would be taken for a host tensor.
    assert devices.choose() == devices.choose("cuda") == torch.device("cuda:0")


COMPILED = """
import json, sys
from pathlib import Path
import torch
import toy
from fercore import train

def compile(model):
    model._compiled_call_impl = torch.compile(model._call_impl, backend="aot_eager")

torch.nn.Module.compile = compile
for compiled in (False, True):
    config = toy.config("fixmatch", compile=compiled)
    record = train.run(config, data_root=sys.argv[1], results=Path(sys.argv[2]), device="cpu", progress=False)
    print(json.dumps([entry["loss"]["total"] for entry in record["history"]]))
"""


def test_a_compiled_step_learns_the_same(toy_root, tmp_path):
    """Through the compiler's front end; its code generation takes minutes and is torch's to test.

    In a process of its own: the checks of shapes cannot be traced.
    """
    path = os.pathsep.join([str(Path(__file__).parent), str(paths.ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, toy_root, tmp_path],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    plain, compiled = map(json.loads, done.stdout.splitlines())
    assert plain == pytest.approx(compiled, rel=1e-3)
