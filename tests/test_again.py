"""Runs made once more: kept apart, paired by key, in no table but their own."""

import copy

import pytest
import synthetic

from fercore.analysis import ablations, claims, repeated_runs, tables
from fercore.errors import UserError
from fercore.study import profiles, records, sweep


def made_again(record, points, device="cpu: other", sha="cd" * 32):
    """The same run with another result, from another start file of the same pre-training."""
    other = copy.deepcopy(record)
    other["metrics"]["classifier"]["mean_last5"]["accuracy"] += points / 100
    other["start"]["sha256"] = sha
    other["provenance"]["device"] = device
    return other


@pytest.fixture
def study(tmp_path):
    """Two runs and a pre-training at home; both, and a third, from elsewhere, merged."""
    loaded = profiles.load("fer2013", results=tmp_path / "home")
    one, two, three = (synthetic.run(name, 0) for name in ("supervised", "sitfer", "fixmatch"))
    for record in (synthetic.pretrain(), one, two):
        records.append(loaded.records, record)
    elsewhere = tmp_path / "elsewhere.jsonl"
    start = synthetic.pretrain() | {"start": {"sha256": "cd" * 32}}
    for record in (start, made_again(one, 0.25), made_again(two, -0.75), made_again(three, 0)):
        records.append(elsewhere, record)
    assert sweep.merge(loaded.records, [elsewhere], again=True) == 1
    return loaded


def test_differing_runs_are_kept_apart_and_once(study, tmp_path):
    assert [r["kind"] for r in records.read(study.again)] == ["pretrain", "run", "run"]
    before = study.records.read_bytes(), study.again.read_bytes()
    assert sweep.merge(study.records, [tmp_path / "elsewhere.jsonl"], again=True) == 0
    assert (study.records.read_bytes(), study.again.read_bytes()) == before
    with pytest.raises(UserError, match=r"differs in .*--again"):
        sweep.merge(study.records, [tmp_path / "elsewhere.jsonl"])


def test_a_source_that_is_not_there(study, tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file; expected the records\.jsonl"):
        sweep.merge(study.records, [tmp_path / "elsewhere.jsonl", tmp_path / "none.jsonl"], again=True)


def test_the_record_of_the_tables_stays(study):
    shown = tables.ran(records.read(study.records), "sitfer")
    assert [r["provenance"]["device"] for r in shown] == ["cuda: made up"]


def test_pairs_and_their_differences(study):
    found = repeated_runs.pairs(study)
    assert [h["key"] for h, _ in found] == [a["key"] for _, a in found] and len(found) == 2
    assert repeated_runs.differences(found) == pytest.approx([0.25, -0.75])
    table = repeated_runs.table(found)
    assert list(table["row"]) == ["labels only", "SIT-FER"] and set(table["start"]) == {"made again"}
    assert list(table["again"] - table["here"]) == pytest.approx([0.25, -0.75])
    assert "2 runs" in repeated_runs.said(found) and "0.25 to 0.75 points" in repeated_runs.said(found)
    assert "0.25 points" in repeated_runs.said(found[:1]) and "not run" in repeated_runs.said([])


def test_a_start_of_its_own_is_said(study):
    head = tables.head(records.read(study.records))
    assert "sha256 abababababababab, 11,000 steps\n        worth, with all labels: linear probe 47.0 %" in head
    assert "nearest neighbours 36.0 %; runs: 2" in head
    assert "sha256 cdcdcdcdcdcdcdcd\n        the same pre-training made again elsewhere" in head
    assert "of one start where they can be; runs: 1" in head and head.count("worth") == 1


def test_differences_are_taken_between_runs_of_one_start(study):
    """FixMatch was made from the other start, and so was labels only, the second time: these two are a pair."""
    known = records.with_again(study.records)
    labels_only, sitfer, fixmatch = (tables.ran(known, name)[0] for name in ("supervised", "sitfer", "fixmatch"))
    (second,), (third,) = labels_only["again"], sitfer["again"]
    for some, wanted in (
        ([labels_only, sitfer], [labels_only, sitfer]),  # both starts are shared: the first run's own
        ([fixmatch, labels_only], [fixmatch, second]),
        ([labels_only, fixmatch, sitfer], [second, fixmatch, third]),
        ([synthetic.run("sitfer", 0), fixmatch], [synthetic.run("sitfer", 0), fixmatch]),  # no start is shared
        ([], []),
    ):
        assert records.alike(some) == wanted
    plain = claims.measure(fixmatch) - claims.measure(labels_only)
    assert claims.apart(fixmatch, labels_only) == pytest.approx(plain - 0.25)
    pairs = {"below": {"method": "supervised"}, "above": {"method": "fixmatch"}}
    assert list(claims.differences(known, **pairs).values()) == pytest.approx([plain - 0.25])
    assert list(ablations.over([fixmatch], [labels_only]).values()) == pytest.approx([plain - 0.25])
    assert [r for r in sweep.complete(study, []) if "again" in r] == [r for r in known if "again" in r] != []
    assert all("again" not in r for r in records.read(study.records))


def test_command(call, study, tmp_path):
    records.append(tmp_path / "more.jsonl", made_again(synthetic.run("fixmatch", 0), 1.5, sha="ab" * 32))
    code, out, _ = call("merge", study.records, tmp_path / "more.jsonl", "--again")
    assert code == 0 and out[-1].endswith("0 new records")
    assert repeated_runs.differences(repeated_runs.pairs(study))[-1] == pytest.approx(1.5)
