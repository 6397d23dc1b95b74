"""Records: whole lines or none, damaged ones named, and several machines' merged by key."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import synthetic
import toy

from fercore import files
from fercore.errors import UserError
from fercore.study import records, sweep


@pytest.fixture
def file(tmp_path):
    return tmp_path / "profile" / "records.jsonl"


def test_canonical_is_sorted_compact_and_refuses_nan():
    assert files.canonical({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'
    assert files.canonical({"a": 1, "b": 2}) == files.canonical({"b": 2, "a": 1})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            files.canonical({"loss": value})


def test_append_and_read(file):
    assert records.read(file) == []
    lines = [synthetic.run("supervised", seed) for seed in range(3)]
    for line in lines:
        records.append(file, line)
    assert records.read(file) == lines
    assert file.read_text().count("\n") == 3
    assert sorted(p.name for p in file.parent.iterdir()) == ["records.jsonl", "records.lock"]


def test_a_record_with_nan_is_refused_and_the_others_stay(file):
    records.append(file, synthetic.run("supervised", 0))
    with pytest.raises(ValueError):
        records.append(file, synthetic.run("supervised", 1) | {"metrics": {"accuracy": float("nan")}})
    assert len(records.read(file)) == 1


def test_a_line_may_hold_any_text(file):
    # U+2028 and U+0085 end a line for str.splitlines, and JSON leaves them as they are.
    record = synthetic.run("supervised", 0, status="failed") | {"error": "one\u2028two\x85three\nfour\u00e9"}
    records.append(file, record)
    records.append(file, synthetic.run("supervised", 1))
    assert records.read(file)[0] == record and len(records.read(file)) == 2


def test_a_last_line_without_its_end_is_ended(file):
    one, two = (synthetic.run("supervised", seed) for seed in range(2))
    file.parent.mkdir()
    file.write_text(files.canonical(one))
    records.append(file, two)
    assert records.read(file) == [one, two]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["replace", "fsync"])
def test_killed_while_writing(file, monkeypatch, error, at):
    records.append(file, synthetic.run("supervised", 0))
    before = file.read_bytes()

    def killed(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, at, killed)
        with pytest.raises(type(error)):
            records.append(file, synthetic.run("supervised", 1))
    assert file.read_bytes() == before
    assert sorted(p.name for p in file.parent.iterdir()) == ["records.jsonl", "records.lock"]
    records.append(file, synthetic.run("supervised", 1))  # the lock was given back
    assert len(records.read(file)) == 2


def test_many_may_append_at_once(file):
    lines = [synthetic.run("supervised", seed) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda line: records.append(file, line), lines))
    assert sorted(r["key"] for r in records.read(file)) == sorted(r["key"] for r in lines)


@pytest.mark.parametrize(
    "damaged, message",
    [
        (b'{"key": "0123", "kind": "run"', "not a JSON record"),
        (b"\xff\xfe\x00garbage", "not a JSON record"),
        (b"[1, 2]", "needs the fields key, kind, status and config"),
        (b'{"key": "0123"}', "needs the fields key, kind, status and config"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(file, damaged, message):
    for seed in range(2):
        records.append(file, synthetic.run("supervised", seed))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + damaged + b"\n" + lines[1])
    before = file.read_bytes()
    with pytest.raises(UserError, match=rf"records.jsonl, line 2: .*{message}"):
        records.read(file)
    assert file.read_bytes() == before
    # Deleting the line, as the message says, brings the rest back.
    file.write_bytes(lines[0] + lines[1])
    assert len(records.read(file)) == 2


def test_finished_takes_the_last_of_a_key():
    failed = synthetic.run("supervised", 0, status="failed")
    one = synthetic.run("supervised", 0)
    later = one | {"provenance": {"seconds": 1}}
    assert records.finished([failed, one, later]) == {one["key"]: later}
    assert records.finished([failed]) == {}


def test_key_depends_on_the_values_alone():
    # Written down, so that it is the same in every process and on every machine.
    assert files.key_of({"a": 1, "b": [2]}) == files.key_of({"b": [2], "a": 1}) == "0855bfc20eb6cfaa"
    assert files.key_of({"a": 1, "b": [3]}) != "0855bfc20eb6cfaa"


def test_key_names_no_place():
    names = set(toy.config().to_dict())
    assert not names & {"data_root", "results", "device", "threads", "checkpoint_every", "progress"}


# Merging


def write(path, lines):
    for line in lines:
        records.append(path, line)
    return path


def test_merge_adds_what_is_new_and_collapses_what_is_equal(tmp_path):
    one, two, three = (synthetic.run("supervised", seed) for seed in range(3))
    target = write(tmp_path / "a.jsonl", [one, two])
    elsewhere = two | {"provenance": {"seconds": 3.0}}  # the same numbers from another machine
    source = write(tmp_path / "b.jsonl", [elsewhere, three, three])
    other = write(tmp_path / "c.jsonl", [three])
    assert sweep.merge(target, [source, other]) == 1
    assert records.read(target) == [one, two, three]
    assert sweep.merge(target, [source, other]) == 0


def test_merge_names_both_sides_of_a_conflict(tmp_path):
    one = synthetic.run("supervised", 0)
    target = write(tmp_path / "a.jsonl", [one])
    source = write(tmp_path / "b.jsonl", [one | {"metrics": {"classifier": None}}])
    before = target.read_bytes()
    with pytest.raises(UserError, match=rf"a\.jsonl, .* and .*b\.jsonl, .*{one['key']} differs in metrics"):
        sweep.merge(target, [source])
    assert target.read_bytes() == before


def test_merge_replaces_a_failure(tmp_path):
    target = write(tmp_path / "a.jsonl", [synthetic.run("supervised", 0, status="failed")])
    source = write(tmp_path / "b.jsonl", [synthetic.run("supervised", 0)])
    assert sweep.merge(target, [source]) == 1
    assert len(records.finished(records.read(target))) == 1


# Provenance


def test_provenance_says_which_code(tmp_path, monkeypatch):
    import torch

    entry = json.loads(files.canonical(records.provenance(torch.device("cpu"), "fp32", 12.34, 100)))
    assert entry["seconds"] == 12.3 and entry["seconds_per_step"] == 0.1234
    assert entry["device"].startswith("cpu: ") and entry["source"] == records.source_hash()
    monkeypatch.setattr(records.paths, "ROOT", tmp_path)  # outside a checkout
    outside = records.provenance(torch.device("cpu"), "fp32", 1.0, 1)
    assert outside["commit"] is None and outside["dirty"] is None and outside["source"] == entry["source"]
