"""What is damaged is found when it is read, and what the system refuses is one line; nothing else is lost."""

import copy
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
import toy
from safetensors import SafetensorError
from safetensors.torch import save_file

from fercore import files, paths, tensors, text
from fercore.data import faces
from fercore.errors import UserError
from fercore.study import dumps, features, profiles, records, runs, schema, starts, sweep
from fercore.training import loop
from fercore.training.checkpoint import Checkpoint

ONE, TWO = (synthetic.run("sitfer", seed) for seed in range(2))
START, TESTED = synthetic.pretrain(), synthetic.transfer(ONE, "ckplus", 0.5)
FAILED = synthetic.run("supervised", 0, status="failed")
SPOILS = {
    "empty": lambda b: b"",
    "text": lambda b: b"hello, this is text",
    "half": lambda b: b[: len(b) // 2],
    "a word": lambda b: b.replace(b"own", b"two") if b"own" in b else b[:-1] + bytes([b[-1] ^ 1]),
    "zeros": lambda b: b[: len(b) // 2] + bytes(64) + b[len(b) // 2 + 64 :],
}
spoilt = pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)


def spoil_file(path, spoil):
    """Damage a file in place, size and time as they are where the damage leaves them."""
    stat = path.stat()
    path.write_bytes(spoil(path.read_bytes()))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# Records


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "records.jsonl"
    records.add(path, [ONE, FAILED, START, TESTED])
    return path


def changed(record, place, value):
    """A record with another value at a place such as "metrics.fused"; "absent" takes it away."""
    record = copy.deepcopy(record)
    *path, last = (int(part) if part.lstrip("-").isdigit() else part for part in place.split("."))
    part = record
    for name in path:
        part = part[name]
    if value == "absent":
        del part[last]
    else:
        part[last] = value
    return record


BAD = [
    (ONE, "key", "0123456789abcdef", "is not the digest of its configuration"),
    (ONE, "config.seed", 7, "is not the digest of its configuration"),
    (START, "config.steps", 7, "is not the digest of its configuration"),
    (TESTED, "config.dataset", "expw", "is not the digest of its configuration"),
    (ONE, "kind", "walk", "'walk' found using 'kind'"),
    (ONE, "status", "absent", "'status'"),
    (FAILED, "error", "absent", "error: Field required"),
    (ONE, "provenance.precision", "absent", "provenance.precision: Field required"),
    (ONE, "metrics.classifier.last.accuracy", 1.2, "metrics.classifier.last.accuracy: Input should be less than"),
    (ONE, "metrics.classifier.mean_last_fifth.ece", -0.1, "mean_last_fifth.ece: Input should be greater than"),
    (ONE, "metrics.fused.last.confusion.0.1", -1, "confusion.0.1: Input should be greater than"),
    (ONE, "metrics.fused.last.recall.2", "0.5", "recall.2: Input should be a valid number"),
    (ONE, "history.-1.loss.total", "nan", "loss.total: Input should be a valid number"),
    (ONE, "history", [], "history: List should have at least 1 item"),
    (ONE, "split.labelled", [-1], "split.labelled.0: Input should be greater"),
    (ONE, "data.fingerprint", None, "data.fingerprint: Input should be a valid string"),
    (START, "metrics.knn", 36, "metrics.knn: Input should be less than"),
    (TESTED, "metrics.n", 1.5, "metrics.n: Input should be a valid integer"),
]  # fmt: skip


@pytest.mark.parametrize("record, place, value, reason", BAD, ids=[f"{place}-{value}" for _, place, value, _ in BAD])
def test_a_record_is_what_the_schema_says(record, place, value, reason, tmp_path):
    bad = changed(record, place, value)
    with pytest.raises(ValueError) as error:
        schema.parse(json.dumps(bad).encode())
    assert reason in str(error.value)
    with pytest.raises(ValueError):  # what could not be read is not written
        records.append(tmp_path / "records.jsonl", bad)
    assert not (tmp_path / "records.jsonl").exists()


DAMAGED = {
    "cut": (b'{"key": "0123", "kind": "run"', "EOF while parsing"),
    "noise": (b"\xff\xfe\x00garbage", "expected value"),
    "list": (b"[1, 2]", "valid dictionary"),
    "nan": (json.dumps(changed(ONE, "history.0.loss.total", float("nan"))).encode(), "expected value"),
    "digit": (schema.line(ONE).strip().replace(b'"test":', b'"test":1', 1), "not what was written"),
    "infinite": (files.canonical(ONE).replace('"total":', '"total":1e999,"x":', 1).encode(), "finite number"),
    "front": (schema.FRONT, "not what was written"),
}


@pytest.mark.parametrize("line, why", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_named_once_and_the_others_stay_usable(line, why, file, capsys):
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + line + b"\n" + b"".join(lines[1:]) + b"\n\n" + line)  # also the end of a file is lost
    before, said = file.read_bytes(), []
    for _ in range(2):
        assert records.read(file) == [ONE, FAILED, START, TESTED]
        said.append(capsys.readouterr().err)
    assert said[0].startswith(f"{file}, line 2: damaged record (") and why in said[0] and ", line 8 too; " in said[0]
    assert said[0].count("\n") == 1 and said[1] == ""
    records.append(file, TWO)
    assert file.read_bytes() == before + b"\n" + schema.line(TWO)
    with pytest.raises(UserError, match=r"records\.jsonl, line 2: damaged record"):
        records.read(file, strict=True)


def test_merge_takes_nothing_where_a_source_is_damaged_and_loses_nothing_of_the_target(file, tmp_path, refused, capsys):
    target, sound, damaged = (tmp_path / f"{name}.jsonl" for name in ("target", "sound", "damaged"))
    target.write_bytes(b"\xffold damage\n")
    records.append(sound, TWO)
    damaged.write_bytes(file.read_bytes() + b'{"key"\n')
    assert records.read(target) == [] and str(target) in capsys.readouterr().err
    assert f"error: {damaged}, line 5: damaged record" in refused("merge", target, sound, damaged)
    assert target.read_bytes() == b"\xffold damage\n"
    assert sweep.merge(target, [sound, file]) == 4  # a failed run is no new record
    assert target.read_bytes().startswith(b"\xffold damage\n") and ONE in records.read(target)


def test_records_of_older_and_of_newer_code_are_read(file):
    for path in paths.RESULTS.glob("*/records.jsonl"):  # the older have no digest
        made = [json.loads(line) for line in path.read_text().split("\n") if line]
        assert records.read(path, strict=True) == [{k: v for k, v in r.items() if k != "digest"} for r in made]
    newer = changed(changed(ONE, "data.without_label", 3), "split.twins", 5)
    newer = changed(changed(newer, "metrics.classifier.last.recall.0", None), "of_tomorrow", {"a": [1]})
    records.append(file, newer)
    file.write_bytes(file.read_bytes() + files.canonical(TWO).encode())
    assert records.read(file, strict=True)[-2:] == [newer, TWO]


# Checkpoints and starts


def make(config, root, results, **options):
    return runs.make(config, data_root=root, results=results, device="cpu", progress=False, **options)


@pytest.fixture
def interrupted(toy_root, tmp_path):
    """A run that was stopped behind its first step, and its checkpoint."""
    config = toy.config("supervised", steps=2)
    with pytest.raises(KeyboardInterrupt):
        make(config, toy_root, tmp_path, checkpoint_every=1, watch=toy.stop)
    (path,) = (tmp_path / "checkpoints").glob("*.pt")
    return config, path


@spoilt
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_anew(spoil, interrupted, toy_root, tmp_path, capsys):
    config, path = interrupted
    path.with_name(f"{path.name}.damaged").write_bytes(b"an earlier one")
    spoil_file(path, spoil)
    damage = path.read_bytes()
    record = make(config, toy_root, tmp_path)
    assert toy.content(record) == toy.content(make(config, toy_root, tmp_path / "other"))
    assert f"{path}: damaged (" in (said := capsys.readouterr().err) and f"now {path.name}.damaged1, and" in said
    kept = {p.name: p.read_bytes() for p in path.parent.glob("*.damaged*")}
    assert kept == {f"{path.name}.damaged": b"an earlier one", f"{path.name}.damaged1": damage}


def test_a_damaged_checkpoint_does_not_stop_a_sweep(profile, toy_root, tmp_path, capsys):
    study = profiles.load(profile(methods=["supervised"], labels=[9]), data_root=toy_root, results=tmp_path / "r")
    first, second = study.runs()
    with pytest.raises(KeyboardInterrupt):
        make(first, toy_root, study.results, checkpoint_every=1, watch=toy.stop)
    (path,) = (study.results / "checkpoints").glob("*.pt")
    path.unlink()
    path.mkdir()  # what cannot be read at all
    found = sweep.complete(study, device="cpu", progress=False)
    assert {r["key"] for r in found if r["status"] == "finished"} == {first.key, second.key}
    assert f"now {path.name}.damaged" in capsys.readouterr().err


@spoilt
def test_a_damaged_start_is_set_aside_and_made_anew(spoil, profile, toy_root, tmp_path, capsys):
    given = profile(methods=["supervised"], labels=[9], seeds=[0], start={"pretrain": {"steps": 1, "batch": 6}})
    study = profiles.load(given, data_root=toy_root, results=tmp_path / "r")
    sweep.begin(study, device="cpu", progress=False)
    path = starts.file(study.results, study.pretrain.key)
    whole = path.read_bytes()
    spoil_file(path, spoil)
    sweep.begin(study, device="cpu", progress=False)
    assert path.read_bytes() == whole and f"{path}: made anew" in capsys.readouterr().err
    assert path.with_name(f"{path.name}.damaged").read_bytes() == spoil(whole)
    sweep.begin(study, device="cpu", progress=False)
    assert capsys.readouterr().err == ""


# Tensors: dumps, features, starts, prompt tables


@pytest.mark.parametrize("at", [0, 20, 0.3, 0.5, -1])
def test_tensors_that_are_not_what_was_written_are_refused(at, tmp_path):
    path, given = tmp_path / "x.safetensors", {"a": torch.ones(3, 5), "b": torch.tensor(2), "c": torch.ones(0, 2) > 0}
    tensors.save(path, given, {"of": "x", "numbers": "[1]"})
    loaded, metadata = tensors.load(path)
    assert metadata == {"of": "x", "numbers": "[1]"} and all(torch.equal(loaded[k], v) for k, v in given.items())
    data = bytearray(path.read_bytes())
    data[int(at * len(data)) if 0 < at < 1 else at] ^= 1
    path.write_bytes(data)
    with pytest.raises((ValueError, SafetensorError)):
        tensors.load(path)


def test_equal_tensors_are_equal_files_and_those_of_other_programs_are_read(tmp_path):
    path, written = tmp_path / "x.safetensors", set()
    for _ in range(8):
        tensors.save(path, {"b": torch.ones(2), "a": torch.zeros(1)}, {"one": "1", "two": "2", "three": "3"})
        written.add(path.read_bytes())
    assert len(written) == 1
    save_file({"a": torch.ones(2)}, path, metadata={"format": "pt"})
    assert tensors.load(path)[1] == {"format": "pt"}


def test_committed_dumps_and_features_are_read():
    found = [*paths.RESULTS.glob("*/features/*.safetensors")]
    assert found and all(features.read(path).config.key == path.stem for path in found)
    for path in paths.RESULTS.glob("*/dumps/*.safetensors"):
        config = features.Run.from_dict(json.loads(tensors.load(path)[1]["dump"])["config"])
        assert dumps.read(path.parent.parent, config).levels()


# Face caches


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "faces"


@spoilt
@pytest.mark.parametrize("part", ["images.npy", "columns.npz", "about.json"])
def test_a_damaged_cache_is_decoded_again(part, spoil, cache, toy_root, tmp_path, capsys):
    before = toy.data(toy.config(), toy_root).faces
    pixels = np.array(before.images)
    (place,) = cache.iterdir()
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    files._sha256.cache_clear()  # as in another process
    spoil_file(place / part, spoil)
    after = toy.data(toy.config(), toy_root).faces
    assert np.array_equal(after.images, pixels) and after.fingerprint == before.fingerprint
    assert f"{place}: damaged cache (not what was written" in capsys.readouterr().err
    assert list(cache.iterdir()) == [place] and (place / "images.npy").read_bytes() == whole["images.npy"]
    toy.data(toy.config(), toy_root)
    assert capsys.readouterr().err == ""


def test_a_cache_is_hashed_once_in_a_process_and_anew_when_it_changes(cache, toy_root, monkeypatch):
    hashed, sha256 = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    for _ in range(3):
        toy.data(toy.config(), toy_root)
    (place,) = cache.iterdir()
    assert [name for name in hashed if name in faces.PARTS] == [*faces.PARTS] * 2  # written, read
    hashed.clear()
    os.utime(place / "images.npy")
    toy.data(toy.config(), toy_root)
    assert hashed == ["images.npy"]


# What killed processes left


@pytest.mark.parametrize(
    "name, stays",
    [
        (".x.json.{here}-{dead}.tmp", False),
        (".another.pt.{here}-{dead}.tmp", False),
        (".folder-0123.{here}-{dead}.tmp", False),
        (".x.json.{here}-{alive}.tmp", True),
        (".x.json.89abcdef-{dead}.tmp", True),  # of another machine
        (".x.json.{dead}.tmp", True),  # of earlier code
        (".x.tmp", True),  # not ours
    ],
)
def test_temporary_files_of_dead_processes_go(name, stays, tmp_path):
    dead = next(pid for pid in range(4_000_000, 5_000_000) if not Path(f"/proc/{pid}").exists())
    left = tmp_path / name.format(here=files.HERE, dead=dead, alive=os.getppid())
    left.mkdir() if "folder" in name else left.write_text("half")
    files.write(tmp_path / "x.json", "{}")
    assert left.exists() == stays
    os.utime(left if stays else tmp_path / "x.json", (0, 0))  # of long ago
    files.write(tmp_path / "y.json", "{}")
    assert left.exists() == (stays and not ("89abcdef" in name or name == ".x.json.{dead}.tmp"))
    assert (tmp_path / "x.json").read_text() == (tmp_path / "y.json").read_text() == "{}"


# What the system refuses


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full(patch, results):
    """Every file that is written."""
    patch.setattr(files.Path, "write_bytes", no_space)


def full_at_the_end(patch, results):
    patch.setattr(os, "fsync", no_space)


def read_only(patch, results):
    def refuse(source, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(source), None, str(target))

    patch.setattr(os, "replace", refuse)


def in_the_way(patch, results):
    if results.exists():
        results.rename(results.with_name("moved"))
    results.write_text("mine")


def folder_for_records(patch, results):
    if (results / "records.jsonl").exists():
        (results / "records.jsonl").rename(results / "moved")
    (results / "records.jsonl").mkdir(parents=True)


def no_permission(patch, results):
    real = Path.mkdir

    def mkdir(path, *args, **options):
        if results in (path, *path.parents):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        real(path, *args, **options)

    patch.setattr(Path, "mkdir", mkdir)


FAULTS = {
    full: "No space left on device; make room",
    full_at_the_end: "No space left on device; make room",
    read_only: "Read-only file system",
    in_the_way: "a file lies where a folder is wanted",
    folder_for_records: "Is a directory; a folder lies where a file is wanted",
    no_permission: "Permission denied",
}


def commands(profile, root, results, other):
    """What is typed, by command, in this order: each writes into `results`."""
    study = [profile, "--data-root", root, "--results", results]
    values = ["--data-root", root, "--results", results, "--dataset", "own", "--encoder", "toy"]
    values += ["--image-size", toy.SIZE]
    short = ["--steps", 1, "--batch", 4, "--unlabelled-batch", 4, "--text", "orthogonal", "--labels", 9]
    return {
        "train": ["train", *values, *short, "--method", "supervised", "--device", "cpu"],
        "sweep": ["sweep", *study, "--device", "cpu"],
        "pretrain": ["pretrain", *values, "--steps", 1, "--batch", 4, "--device", "cpu"],
        "reproduce": ["reproduce", *study],
        "merge": ["merge", results / "records.jsonl", other],
        "dump": ["dump", *study, "--labels", 9, "--method", "supervised", "--faces", 5, "--device", "cpu"],
    }


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("command", ["train", "sweep", "pretrain", "reproduce", "merge", "dump"])
def test_what_the_system_refuses_is_one_line(command, fault, profile, toy_root, tmp_path, monkeypatch, refused):
    results, other = tmp_path / "results", tmp_path / "other.jsonl"
    for path, record in ((results / "records.jsonl", ONE), (other, TWO)):
        records.append(path, record)
    toy.data(toy.config(), toy_root)  # decoded before
    before = (results / "records.jsonl").read_bytes()
    given = profile(methods=["supervised"], labels=[9], seeds=[0], notebooks={"10_table2_components": {}})
    typed = commands(given, toy_root, results, other)[command]
    with monkeypatch.context() as patch:
        fault(patch, results)
        line = refused(*typed)
    assert FAULTS[fault] in line and str(results) in line and ".tmp" not in line
    kept = [p for p in (results / "records.jsonl", tmp_path / "moved/records.jsonl", results / "moved") if p.is_file()]
    assert [p.read_bytes() for p in kept] == [before]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_that_cannot_store_its_checkpoint_is_not_called_failed(profile, toy_root, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(Checkpoint, "save", no_space)
    typed = commands(profile(methods=["supervised"]), toy_root, tmp_path / "results", None)["sweep"]
    assert "No space left on device" in refused(*typed) and not (tmp_path / "results/records.jsonl").exists()


def test_a_run_whose_disk_was_full_goes_on_from_its_checkpoint(toy_root, tmp_path, monkeypatch):
    config, steps, step = toy.config("supervised", steps=3), [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda run, number: steps.append(number) or step(run, number))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(records, "append", no_space)
        make(config, toy_root, tmp_path, checkpoint_every=1)
    assert make(config, toy_root, tmp_path)["status"] == "finished" and steps == [0, 1, 2]


@pytest.mark.parametrize("what", ["text", "faces"])
@pytest.mark.parametrize("fault", ["full", "in the way"])
def test_a_cache_that_cannot_be_written(what, fault, toy_root, tmp_path, monkeypatch, refused):
    place = tmp_path / "cache"
    monkeypatch.setenv("FERCORE_CACHE", str(place))
    if fault == "in the way":
        place.write_text("mine")
    elif what == "text":
        monkeypatch.setattr(files.Path, "write_bytes", no_space)
    else:
        monkeypatch.setattr(faces.Writer, "put", no_space)
    monkeypatch.setitem(text.ENCODERS, "sentence", lambda name, lines: text._random(len(lines)))
    typed = {"text": ["text", "--text", "sentence:x"]}
    typed["faces"] = commands(None, toy_root, tmp_path / "results", None)["train"]
    line = refused(*typed[what])
    assert str(place) in line and {"full": "No space left", "in the way": "Not a directory"}[fault] in line
