"""Dumps: what is in them, that they change nothing of a training, and how a missing one is made."""

import json

import numpy as np
import pytest
import torch
import toy
import yaml

from fercore import files
from fercore.errors import UserError
from fercore.fusion import fuse
from fercore.study import dumps, profiles, records, runs, sweep
from fercore.training import checkpoint, evaluate, levels, loop

CONFIG = toy.config(steps=24, evaluations=12, options={"tau": 0.4, "delta": 0.5})
N = 20


def run(config, root, results, **options):
    return runs.make(config, data_root=root, results=results, device="cpu", progress=False, **options)


@pytest.fixture(scope="module")
def whole(toy_root, tmp_path_factory):
    """A run with its dump: the record and the folder."""
    results = tmp_path_factory.mktemp("whole")
    return run(CONFIG, toy_root, results, dump=N), results


@pytest.fixture(scope="module")
def plain(toy_root, tmp_path_factory):
    """The same run without one."""
    return run(CONFIG, toy_root, tmp_path_factory.mktemp("plain"))


# What is in it


def test_a_dump_changes_nothing_of_the_training(whole, plain):
    assert toy.content(whole[0]) == toy.content(plain)


def test_levels_are_those_of_the_averaged_model_and_the_labels_those_of_the_rows(toy_root, whole):
    record, results = whole
    dump = dumps.read(results, CONFIG)
    training = toy.set_up(CONFIG, toy_root)
    loop.prepare(training)
    for step in range(CONFIG.steps):
        loop.train_step(training, step)
        training.step = step + 1
        if training.step in dump.steps:
            expected = evaluate.levels(training, dump.rows)
            stored = dump.levels(dump.steps.index(training.step))
            assert tuple(stored) == tuple(expected) == dump.names == ("semantic", "text", "instance")
            for name, p in expected.items():
                assert torch.allclose(stored[name], p, atol=1e-3), (step, name)
                assert torch.allclose(stored[name].sum(1), torch.ones(N), atol=1e-6)
            alone, fused = evaluate.predict(training, dump.rows)
            assert torch.equal(expected["semantic"], alone) and torch.equal(fuse(expected), fused)
    assert torch.equal(dump.labels, training.views.labels[dump.rows])
    hidden = training.data.pool[training.split.unlabelled]
    assert len(set(dump.rows.tolist())) == N and set(dump.rows.tolist()) <= set(hidden.tolist())
    assert dump.classes == toy.CLASSES and dump.tau == 0.4 and dump.config == CONFIG
    assert dump.about["fingerprint"] == training.data.faces.fingerprint
    assert dump.about["metrics"]["fused"] == record["metrics"]["fused"]["mean_last_fifth"]


def test_looks_are_spread_over_the_evaluations_and_at_most_five(whole):
    assert dumps.read(whole[1], CONFIG).steps == (4, 10, 14, 20, 24)  # of 2, 4, ... 24
    rows = torch.arange(9)
    assert levels.begin(rows, 4, 0, {10, 20, 30}).steps == {10, 20, 30}
    assert levels.begin(rows, 4, 0, loop.evenly(2000, 10)).steps == {400, 800, 1200, 1600, 2000}
    assert max(levels.begin(rows, 4, 0, loop.evenly(97, 13)).steps) == 97


def test_the_faces_are_those_of_the_split_whatever_the_method_and_seed(toy_root, whole, tmp_path):
    for config in (toy.config("supervised", steps=2), toy.config("fixmatch", steps=2, seed=7)):
        run(config, toy_root, tmp_path, dump=N)
        other = dumps.read(tmp_path, config)
        assert torch.equal(other.rows, dumps.read(whole[1], CONFIG).rows)
        assert other.names == ("semantic",) and other.levels()["semantic"].shape == (N, 3)
    run(toy.config("supervised", steps=2, split_seed=1), toy_root, tmp_path, dump=N)
    assert not torch.equal(dumps.read(tmp_path, toy.config("supervised", steps=2, split_seed=1)).rows, other.rows)


def test_no_more_faces_than_there_are_and_none_without_unlabelled_ones(toy_root, tmp_path):
    config = toy.config("supervised", steps=2)
    run(config, toy_root, tmp_path, dump=10_000)
    assert len(dumps.read(tmp_path, config).rows) == 39
    everything = toy.config("fullysupervised", steps=2, labels=0)
    run(everything, toy_root, tmp_path, dump=N)
    assert dumps.read(tmp_path, everything) is None
    with pytest.raises(UserError, match="dump: -1"):
        run(toy.config("supervised", steps=2, seed=1), toy_root, tmp_path, dump=-1)


def test_full_size_stays_under_half_a_megabyte(tmp_path, whole):
    log = levels.begin(torch.arange(26_000), dumps.SIZE, 0, loop.evenly(2000, 10))
    for step in log.steps:
        log.add(step, {name: torch.full((dumps.SIZE, 7), 1 / 7) for name in ("semantic", "text", "instance")})
    dumps.write(tmp_path, log, whole[0], torch.zeros(dumps.SIZE, dtype=torch.int64))
    assert dumps.file(tmp_path, CONFIG.key).stat().st_size < 500_000


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"not safetensors", lambda b: b""])
def test_a_damaged_dump(whole, tmp_path, spoil):
    path = dumps.file(tmp_path, CONFIG.key)
    path.parent.mkdir()
    path.write_bytes(spoil(dumps.file(whole[1], CONFIG.key).read_bytes()))
    with pytest.raises(UserError, match="damaged dump"):
        dumps.read(tmp_path, CONFIG)


def test_a_look_that_is_not_there(whole):
    with pytest.raises(IndexError):
        dumps.read(whole[1], CONFIG).levels(5)


# Interrupted


@pytest.mark.parametrize("stop", [3, 4, 5, 15, 24])
def test_interrupted_anywhere_it_ends_in_the_same_dump(stop, whole, plain, toy_root, tmp_path):
    def watch(step):
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, toy_root, tmp_path, dump=N, checkpoint_every=1, watch=watch)
    assert not dumps.file(tmp_path, CONFIG.key).exists()
    record = run(CONFIG, toy_root, tmp_path, dump=N)
    assert toy.content(record) == toy.content(plain)
    one, other = dumps.read(whole[1], CONFIG), dumps.read(tmp_path, CONFIG)
    assert one.steps == other.steps and torch.equal(one.rows, other.rows)
    for look in range(len(one.steps)):
        assert all(torch.equal(p, other.levels(look)[name]) for name, p in one.levels(look).items())


@pytest.mark.parametrize("first, then, there", [(0, N, False), (N, 0, False), (N - 1, N, False), (0, 0, False)])
def test_gone_on_from_a_checkpoint_of_another_dump_none_is_written(first, then, there, plain, toy_root, tmp_path):
    def watch(step):
        if step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, toy_root, tmp_path, dump=first, checkpoint_every=1, watch=watch)
    assert toy.content(run(CONFIG, toy_root, tmp_path, dump=then)) == toy.content(plain)
    assert dumps.file(tmp_path, CONFIG.key).exists() == there


def test_gone_on_from_a_checkpoint_of_the_code_before_dumps(plain, toy_root, tmp_path):
    def watch(step):
        if step == 2:  # before the first look: the dump is whole all the same
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, toy_root, tmp_path, checkpoint_every=1, watch=watch)
    (saved,) = (tmp_path / "checkpoints").glob("*.pt")
    state = checkpoint.load(saved, torch.device("cpu"))
    del state["log"]
    checkpoint.save(saved, state)
    assert toy.content(run(CONFIG, toy_root, tmp_path, dump=N)) == toy.content(plain)
    assert dumps.read(tmp_path, CONFIG).steps[0] == 4


# A missing one, and the doors


@pytest.fixture
def study(tmp_path, toy_root):
    """A profile of two runs from a start of its own."""
    values = {k: v for k, v in CONFIG.to_dict().items() if k in profiles.SHARED and k != "dataset_options"}
    values |= {"dataset": "own", "labels": [9], "seeds": [0], "methods": ["supervised", "sitfer"]}
    values |= {"options": {}, "start": {"pretrain": {"steps": 2, "batch": 6}}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
    return profiles.load(tmp_path / "toy.yaml", data_root=toy_root, results=tmp_path / "results")


def complete(study, config):
    return sweep.dump(study, config, N, device="cpu", progress=False)


def test_the_dump_of_a_run_without_a_record_comes_with_its_record(study):
    (config,) = study.runs(["sitfer"])
    made = complete(study, config)
    assert made.steps[-1] == config.steps and len(records.finished(records.read(study.records))) == 2  # and the start


def test_a_missing_dump_is_made_by_training_again_and_nothing_else_of_that_stays(study, monkeypatch):
    (config,) = study.runs(["sitfer"])
    sweep.complete(study, [config], device="cpu", dump=N, progress=False)
    path = dumps.file(study.results, config.key)
    before, kept = dumps.read(study.results, config).levels(), study.records.read_bytes()
    path.unlink()
    made = complete(study, config)
    assert all(torch.equal(p, before[name]) for name, p in made.levels().items())
    assert study.records.read_bytes() == kept and list(path.parent.iterdir()) == [path]
    monkeypatch.setattr(runs, "make", lambda *_, **__: pytest.fail("trained again"))
    assert complete(study, config).path == path


def test_an_interrupted_repetition_goes_on(study, monkeypatch):
    (config,) = study.runs(["supervised"])
    sweep.complete(study, [config], device="cpu", progress=False)
    steps, real = [], loop.train_step

    def step(run, number):
        steps.append(number)
        if steps == [*range(10)]:
            raise KeyboardInterrupt
        real(run, number)

    monkeypatch.setattr(loop, "train_step", step)
    make = runs.make
    monkeypatch.setattr(runs, "make", lambda *args, **options: make(*args, checkpoint_every=4, **options))
    with pytest.raises(KeyboardInterrupt):
        complete(study, config)
    assert complete(study, config).steps[-1] == 24 and steps == [*range(10), *range(8, 24)]


def test_a_record_that_is_not_met_again_is_said_and_its_dump_not_kept(study):
    (config,) = study.runs(["sitfer"])
    sweep.complete(study, [config], device="cpu", progress=False)
    lines = [json.loads(line) for line in study.records.read_text().splitlines()]
    lines[-1]["metrics"]["classifier"]["last"]["accuracy"] = 0.123
    study.records.write_text("\n".join(map(files.canonical, lines)))
    with pytest.raises(UserError, match=r"trained again it does not give its record .*0\.123"):
        complete(study, config)
    assert dumps.read(study.results, config) is None
    lines[-1]["provenance"]["device"] = "cpu: another one"  # then its digits may differ
    study.records.write_text("\n".join(map(files.canonical, lines)))
    assert complete(study, config).config == config


def test_without_data_nothing_happens(study, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "make", lambda *_, **__: pytest.fail("trained"))
    absent = profiles.load(tmp_path / "toy.yaml", data_root=tmp_path / "absent", results=tmp_path / "results")
    assert complete(absent, absent.runs(["sitfer"])[0]) is None


def test_the_command_line(study, toy_root, tmp_path, monkeypatch, call, refused):
    place = [tmp_path / "toy.yaml", "--data-root", toy_root, "--results", study.results, "--device", "cpu"]
    assert call("sweep", *place, "--methods", "supervised")[0] == 0 and not (study.results / "dumps").exists()
    code, _, err = call("sweep", *place, "--dump", N)
    assert code == 0 and any("1 runs have no dump" in line for line in err)
    wanted = study.runs()
    assert [dumps.file(study.results, c.key).exists() for c in wanted] == [c.method == "sitfer" for c in wanted]
    code, out, _ = call("dump", *place, "--labels", 9, "--method", "supervised", "--faces", N)
    assert code == 0 and f"{N} faces; semantic; steps 4, 10, 14, 20, 24" in out[-1]
    assert "seed 3 is none of its seeds 0" in refused("dump", *place, "--labels", 9, "--seed", 3)


def test_rows_are_of_the_data_set_and_not_of_the_pool(toy_root, whole):
    training = toy.set_up(CONFIG, toy_root)
    rows = dumps.read(whole[1], CONFIG).rows.numpy()
    assert np.isin(rows, training.data.pool).all() and training.data.faces.split[rows].max() == 0
