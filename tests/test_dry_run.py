"""The price of a study: bytes as they come out, what each notebook asks for, and the lines of a dry run."""

import re

import pytest
import torch
import yaml

from fercore import files, paths
from fercore.bench import step
from fercore.config import Run
from fercore.study import cost, dry_run, plan, profiles, records, sweep
from fercore.training import checkpoint, devices, loop, simclr

CPU = torch.device("cpu")


def config(method):
    return Run("fer2013", method, 400, steps=1000, batch=3, unlabelled_batch=4, precision="fp32")


# Disk


@pytest.mark.parametrize("method", ["supervised", "remixmatch", "sitfer", "simmatch"])
def test_bytes_of_weights_and_checkpoint(method, tmp_path):
    run = cost.small(config(method))
    kept = tmp_path / "kept.pt"
    checkpoint.save(kept, {"model": run.ema.model.state_dict(), "state": run.state.state_dict()})
    assert dry_run.weights_bytes(run.config) == pytest.approx(kept.stat().st_size, rel=0.01)
    loop.train_step(run, 0)
    checkpoint.save(kept, run.state_dict())
    assert dry_run.checkpoint_bytes(run.config) == pytest.approx(kept.stat().st_size, rel=0.01)


def test_bytes_of_the_committed_records():
    for record in records.read(paths.RESULTS / "fer2013" / "records.jsonl"):
        if record["kind"] == "run":
            assert dry_run.record_bytes(Run.from_dict(record["config"])) == pytest.approx(
                len(files.canonical(record)), rel=0.25
            )


def test_units():
    assert [dry_run.size(n) for n in (1_500, 2_340_000, 5.4e9)] == ["1.5 kB", "2.3 MB", "5.4 GB"]
    assert [dry_run.hours(s) for s in (90.0, 3600.0, 4.155e3 * 3600)] == ["1.5 min", "1.0 h", "4,155.0 h"]


# Notebooks


GIVEN = {
    "dataset": "facs", "dataset_options": {"n": 70, "test": 21}, "labels": [7, 14], "seeds": [0, 1], "steps": 4,
    "methods": ["supervised", "fixmatch", "fullysupervised"], "evaluations": 1, "batch": 4, "unlabelled_batch": 4,
    "image_size": 24, "encoder": "toy", "text": "orthogonal", "precision": "fp32", "notebooks": {"one": {}},
}  # fmt: skip


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """A function that writes a YAML with these changes; its notebook "one" asks for FixMatch."""
    monkeypatch.setitem(plan.NOTEBOOKS, "one", lambda study: study.runs(["fixmatch"]))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")

    def write(**changes):
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(GIVEN | changes))
        return path

    return write


# The report


def test_report_of_a_profile(profile):
    study = profiles.load(profile())
    (made,) = sweep.complete(study, study.runs()[:1], device="cpu", progress=False)
    made["provenance"]["seconds"] = 2.0
    files.write(study.records, files.canonical(made) + "\n")
    lines = list(dry_run.report(study, ["own", "one"], CPU))
    assert "9 of 10 runs are missing" in lines[0]
    rows = [line.split() for line in lines if re.match(r"\S+ +(all|\d+) +\d+ ", line)]
    assert [row[:3] for row in rows] == [
        ["supervised", "7", "1"], ["fixmatch", "7", "2"], ["fullysupervised", "all", "2"],
        ["supervised", "14", "2"], ["fixmatch", "14", "2"],
    ]  # fmt: skip
    assert [row[-1] for row in rows] == ["records", "operations", "operations", "records", "operations"]
    assert any(line.startswith("  one ") and "4 runs" in line for line in lines)
    assert any(line.startswith("  own ") and "9 runs" in line for line in lines)  # one of the user's: the grid
    assert any(line.startswith("operations: counted, at ") and "the median of 1 records" in line for line in lines)
    for kind in ("records", "checkpoint", "weights", "faces"):
        assert sum(line.startswith(f"  {kind} ") for line in lines) == 1
    assert len(records.read(study.records)) == 1  # the price trains nothing


def test_report_when_nothing_is_missing(profile):
    study = profiles.load(profile(labels=[7], seeds=[0], methods=["supervised"]))
    sweep.complete(study, device="cpu", progress=False)
    lines = list(dry_run.report(study, ["own"], CPU))
    assert "0 of 1 runs are missing" in lines[0] and not any(line.startswith("disk") for line in lines)


def test_the_start_is_priced_until_it_is_there(profile):
    start = {"pretrain": {"steps": 3, "batch": 4}}
    study = profiles.load(profile(start=start, labels=[7], seeds=[0], methods=["supervised"]))
    assert any(line.startswith("start: 3 steps of SimCLR") for line in dry_run.report(study, [], CPU))
    sweep.complete(study, [], device="cpu", progress=False)
    simclr.run(study.pretrain, results=study.results, device="cpu", progress=False)
    assert not any(line.startswith("start: 3") for line in dry_run.report(study, [], CPU))


@pytest.mark.parametrize("name", ["rafdb", "sfew", "affectnet"])
def test_price_of_the_papers_profiles_without_data_or_weights(name, monkeypatch, tmp_path):
    monkeypatch.setattr(step, "medians", lambda cases, repeats, device: dict.fromkeys(cases, 1000.0))
    plain = cost.small
    monkeypatch.setattr(cost, "small", lambda config, *true_size: plain(config))
    study = profiles.load(name, results=tmp_path / "results")
    lines = list(dry_run.report(study, study.notebooks, devices.choose("cpu")))
    assert not sweep.ready(study) and f"{len(plan.runs(study))} of {len(plan.runs(study))} runs" in lines[0]
    rows = [line for line in lines if line.endswith(" operations")]
    assert len(rows) == (len(study.methods) - 1) * len(study.labels) + 1 + 1  # every label is one row, the audit too
    assert any("weights/resnet18_msceleb.pth: not there yet" in line for line in lines)
    assert not study.results.exists()
