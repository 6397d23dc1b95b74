"""Table I says what the records say, gaps and all, and never calls a difference more than the seeds allow."""

import itertools
import statistics

import matplotlib
import numpy as np
import pytest
import synthetic

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.text import Text

from fercore.analysis import claims, comparison, tables
from fercore.config import Run
from fercore.data.expressions import EXPRESSIONS
from fercore.methods import METHODS
from fercore.report import comparison_figures, figures, printing
from fercore.study import plan, profiles

METHODS_HERE = list(comparison.NAMES)


def study(seeds=3, labels=(2000,), dataset="fer2013", methods=METHODS_HERE, full=True):
    """Every method a little better than the one above it; the seeds differ more than the methods do."""
    runs = [synthetic.pretrain()]
    for budget, (i, method), seed in itertools.product(labels, enumerate(methods), range(seeds)):
        accuracy = 0.40 + 0.005 * i + 0.02 * seed + 0.001 * (i * (seed + 1) % 5)
        runs.append(synthetic.run(method, seed, budget, dataset, accuracy))
    runs += [synthetic.run("fullysupervised", seed, 0, dataset, 0.6 + seed / 100) for seed in range(seeds) if full]
    return runs


PARTIAL = [
    synthetic.pretrain(),
    *(synthetic.run(m, s, accuracy=0.4 + s / 50) for m in ("supervised", "sitfer") for s in (0, 1)),
    synthetic.run("fixmatch", 0, accuracy=0.45),
    synthetic.run("mixmatch", 0, accuracy=0.45, status="failed"),
    synthetic.run("sitfer", 2, accuracy=0.45, status="failed"),
]


@pytest.fixture(autouse=True)
def close_figures():
    figures.style()
    yield
    plt.close("all")


def line(frame, method, data="FER2013/2000"):
    (found,) = [row for _, row in frame.iterrows() if (row["method"], row["data"]) == (method, data)]
    return found


# The rows


def test_every_method_of_the_registry_is_a_row_with_a_look_of_its_own():
    rows = set(METHODS) - {"audit"}  # which has a notebook of its own
    assert {*comparison.NAMES, comparison.FULL.method} == rows == set(comparison_figures.LOOKS)
    assert len(set(comparison_figures.LOOKS.values())) == len(rows)
    assert comparison_figures.LOOKS["sitfer"][0] == figures.COLOURS["sitfer"]
    assert "reconstructed" in comparison.NAMES["marginmix"] and "reconstructed" in comparison.NAMES["lion"]


def test_the_grid_is_the_tables_own_part_of_the_profile():
    grid = plan.table1(profiles.load("fer2013"))
    assert {"sitfer", "fixmatch"} <= {config.method for config in grid} <= set(METHODS)
    assert len({config.key for config in grid}) == len(grid)
    assert len(grid) < len(profiles.load("fer2013").runs())


def test_records_of_other_tables_and_their_transfers_stay_out():
    grid = [Run("fer2013", "sitfer", 100), Run("fer2013", "sitfer/text", 100)]
    mine, other = ({"key": c.key, "kind": "run", "status": "finished", "config": c.to_dict()} for c in grid)
    records = [mine, other, synthetic.transfer(mine, "ckplus", 0.5), synthetic.transfer(other, "ckplus", 0.6)]
    assert tables.of(records, grid[:1]) == [records[0], records[2]]


# The table


def test_table1_is_mean_spread_and_rank():
    records = study()
    frame = comparison.table1(records)
    assert list(frame["method"]) == [*comparison.NAMES.values(), comparison.FULL.name]
    ours = [100 * r["metrics"]["classifier"]["mean_last5"]["accuracy"] for r in records
            if r["config"].get("method") == "uda"]  # fmt: skip
    uda = line(frame, "UDA")
    assert uda["ours"] == pytest.approx(statistics.fmean(ours)) and uda["n"] == 3
    assert uda["ours ±"] == pytest.approx(statistics.stdev(ours))
    assert uda["best on test"] == pytest.approx(uda["ours"] + 1.2)
    values = frame["ours"][:-1]
    assert list(frame["our\nrank"][:-1]) == [1 + sum(v > value for v in values) for value in values]
    assert len(printing.text(frame[comparison.MAIN]).splitlines()[0]) <= 120


def test_published_cells_are_the_claims_at_the_nearest_budget():
    frame = comparison.table1(study(1, (400, 1500)))
    for method, name in comparison.NAMES.items():
        for data, column in (("FER2013/400", "rafdb/400"), ("FER2013/1500", "rafdb/2000")):
            cell, row = comparison._cell(tables.Row(method, name, (), "sit-fer/I"), column), line(frame, name, data)
            assert np.isnan(row["published"]) if cell is None else row["published"] == cell.value
            assert row["on"] == ("RAF-DB/" + column[6:] if cell else "")
    assert frame["published"].notna().sum() == 2 * 10
    assert line(frame, "SIT-FER", "FER2013/400")["its\nrank"] == 1
    assert line(frame, "UDA", "FER2013/1500")["its\nrank"] == 5
    assert comparison.beside("sfew", 2000) == "sfew/400" and comparison.beside("affectnet", 9000) == "affectnet/10000"


def test_all_labels_stand_beside_no_published_value_and_in_no_rank():
    full = line(comparison.table1(study()), comparison.FULL.name, "FER2013/all")
    assert full["ours"] == pytest.approx(61.0) and full["n"] == 3
    assert full[["published", "its\nrank", "our\nrank"]].isna().all()
    assert "61.00 % (n = 3); SIT-FER from there -" in comparison.bound(study())
    assert "not run" in comparison.bound(study(full=False))
    assert "all labels: 3 finished runs" in tables.coverage(study())


def test_gaps_and_failures_stay_visible():
    frame = comparison.table1(PARTIAL)
    assert list(line(frame, "SIT-FER")[["n", "failed"]]) == [2, 1]
    printed = printing.text(frame[comparison.MAIN]).splitlines()
    (mixmatch,) = [row for row in printed if " MixMatch " in row]
    (uda,) = [row for row in printed if " UDA " in row]
    assert "failed" in mixmatch and "not run" in uda
    assert line(frame, "FixMatch")["our\nrank"] == 1 and np.isnan(line(frame, "UDA")["our\nrank"])
    assert "UDA" in tables.untested(PARTIAL, comparison.TABLE, comparison.ROWS)
    assert "80 of Table I's 80 cells" in tables.untested(PARTIAL, comparison.TABLE, comparison.ROWS)


def test_a_method_that_never_used_a_pseudo_label_is_named():
    records = study(1)
    assert "passed the threshold" not in comparison.answer(records)
    for record in records:
        if record["config"].get("method") == "freematch":
            for entry in record["history"]:
                entry |= {"kept": 0.0, "pseudo_accuracy_kept": None}
    assert comparison.answer(records).endswith("But no pseudo-label passed the threshold in: FreeMatch.")
    assert "FreeMatch at 2,000 labels kept less than" in tables.untested(records, comparison.TABLE, comparison.ROWS)


def test_two_data_sets_never_mix():
    frame = comparison.table1(study() + study(dataset="rafdb", labels=(2000,), full=False))
    assert len(frame) == 2 * 14 and set(frame["n"]) == {0, 3}
    assert set(frame[frame["data"] == "RAF-DB/2000"]["on"]) == {"RAF-DB/2000", ""}


def test_ranks_and_published_order():
    ranks = comparison.ranks_table(study(1, (400, 2000)))
    rows = {row["method"]: row for _, row in ranks.iterrows()}
    assert rows["SIT-FER"]["published\nmean rank"] == 1 and np.isnan(rows["FreeMatch"]["published\nmean rank"])
    for row in rows.values():
        assert row["our\nmean rank"] == (row["FER2013\n400\nrank"] + row["FER2013\n2000\nrank"]) / 2
    up = [synthetic.run(m, 0, accuracy=0.4 + k / 100) for k, m in enumerate(("supervised", "fixmatch", "sitfer"))]
    assert "3 of 3 pairs" in comparison.agreement(up)
    down = [synthetic.run(m, 0, accuracy=0.4 - k / 100) for k, m in enumerate(("supervised", "fixmatch", "sitfer"))]
    assert "0 of 3 pairs" in comparison.agreement(down)


# Which differences can be told apart


def gains(*points, n_methods=1):
    """SIT-FER, and as many methods that differ from it by these points, seed by seed."""
    records = [synthetic.run("sitfer", s, accuracy=0.45 + s / 100) for s in range(len(points))]
    for method in METHODS_HERE[:n_methods]:
        records += [synthetic.run(method, s, accuracy=0.45 + s / 100 + g / 100) for s, g in enumerate(points)]
    return records


def test_pairs_are_method_minus_sitfer_on_the_same_seed():
    row = line(comparison.paired_table(gains(1.0, 2.0, 4.0)), "Labels only")
    assert row["difference"] == pytest.approx(7 / 3) and row["spread"] == pytest.approx(statistics.stdev([1, 2, 4]))
    assert (row["lower"], row["upper"]) == pytest.approx((1.0, 4.0))
    assert (row["n"], row["p"], row["pairs"]) == (3, 0.25, "+1.00 +2.00 +4.00")
    assert "SIT-FER" not in set(comparison.paired_table(study())["method"])
    assert comparison.FULL.name not in set(comparison.paired_table(study())["method"])


def test_three_seeds_distinguish_nothing_however_large_the_difference():
    records = gains(30.0, 30.1, 30.2)
    assert line(comparison.paired_table(records), "Labels only")["than SIT-FER"] == "not distinguishable"
    assert "3 seeds reach no p below 2/8 = 0.25" in comparison.reach(records)
    assert "larger than their spread: 1 of 1" in comparison.reach(records)
    assert "no difference from SIT-FER can be distinguished, as 3 seeds" in comparison.answer(records)


def test_one_seed_says_that_nothing_can_be_distinguished():
    row = line(comparison.paired_table(gains(30.0)), "Labels only")
    assert row["than SIT-FER"] == "one seed" and np.isnan(row["p, Holm"]) and np.isnan(row["lower"])
    for said in (comparison.reach(gains(30.0)), comparison.answer(gains(30.0))):
        assert "nothing can be distinguished" in said


@pytest.mark.parametrize(("sign", "side"), [(1, "above"), (-1, "below")])
def test_enough_seeds_distinguish_and_holm_counts_the_comparisons(sign, side):
    points = [sign * (1 + i / 10) for i in range(7)]  # p = 2/128
    one, many = comparison.paired_table(gains(*points)), comparison.paired_table(gains(*points, n_methods=6))
    assert line(one, "Labels only")["than SIT-FER"] == side
    assert line(many, "Labels only")["than SIT-FER"] == "not distinguishable"
    assert line(many, "Labels only")["p, Holm"] == pytest.approx(6 * 2 / 128)
    assert f"not distinguishable from SIT-FER: 0 of 1 methods; {side} it: Labels only" in comparison.answer(
        gains(*points)
    )


def test_runs_with_another_split_or_seed_are_no_pair():
    lonely = [synthetic.run("sitfer", 0, accuracy=0.4), synthetic.run("uda", 1, accuracy=0.5)]
    assert line(comparison.paired_table(lonely), "UDA")["than SIT-FER"] == "not run"
    assert "no pair of runs" in comparison.answer(lonely)


# Beside the table


def test_balance_sets_accuracy_beside_macro_f1():
    frame = comparison.balance_table(study())
    assert (frame["gap"] - (frame["accuracy"] - frame["macro F1"])).abs().max() < 1e-9
    run = [r for r in study(1) if r["config"].get("method") == "uda"]
    recall = run[0]["metrics"]["classifier"]["last"]["recall"]
    uda = line(comparison.balance_table(run), "UDA")
    assert uda["class"] == EXPRESSIONS[recall.index(min(recall))] and uda["least recalled"] == 100 * min(recall)
    assert set(frame[frame["aligns"] != ""]["method"]) == {"ReMixMatch", "SIT-FER", "SimMatch", "FreeMatch"}
    assert "not aligning (8)" in comparison.balance(study())


def test_benchmark_is_beside_ours_at_its_own_budgets():
    frame = comparison.benchmark_table(study(2, (70,)), "ssl-fer/I")
    row = frame[frame["method"] == "FixMatch"].iloc[0]
    assert row["FER2013\n70"] == claims.published("ssl-fer/I", "fixmatch", "fer2013/70").value
    assert row["ours on\n70"] == pytest.approx(comparison.means(study(2, (70,)), "fer2013", 70)["fixmatch"])
    assert np.isnan(row["ours on\n175"]) and "not run" in printing.text(frame)
    assert comparison.benchmark_table(study(dataset="rafdb", labels=(70,)), "ssl-fer/I")["ours on\n70"].isna().all()


def test_transfers_have_a_column_for_each_data_set():
    records = study(2, methods=["supervised", "sitfer"])
    assert comparison.transferred(records).endswith("not run.") and comparison.transfer_table(records).empty
    runs = [r for r in records if r["config"].get("method") == "sitfer"]
    records += [synthetic.transfer(r, "ckplus", 0.5 + i / 10) for i, r in enumerate(runs)]
    records += [synthetic.transfer(runs[0], "expw", 0.3)]
    frame = comparison.transfer_table(records)
    sitfer = line(frame, "SIT-FER")
    assert sitfer["ours on\nCK+"] == pytest.approx(55.0) and sitfer["ours on\nCK+ ±"] == pytest.approx(7.07, abs=0.01)
    assert sitfer["ours on\nExpW"] == pytest.approx(30.0)
    (supervised,) = [row for row in printing.text(frame).splitlines() if "Labels only" in row]
    assert supervised.count("not run") == 2
    assert "CK+: 900 faces of the 6 classes" in comparison.transferred(records)


# Whatever the records


@pytest.mark.parametrize(
    "records",
    [[], [synthetic.pretrain()], PARTIAL, study(1), study(2, (400, 2000)), study(3, (100, 4000), "rafdb")],
    ids=["none", "start", "partial", "one seed", "two budgets", "own data"],
)
def test_nothing_fails_on_any_set_of_records(records):
    for make in (comparison.table1, comparison.paired_table, comparison.ranks_table, comparison.balance_table):
        assert printing.text(make(records, [400, 2000])) and printing.markdown(make(records))
    for say in (comparison.answer, comparison.reach, comparison.agreement, comparison.balance, comparison.bound):
        assert say(records, [400, 2000]) and say(records)
    assert comparison.transferred(records) and tables.untested(records, comparison.TABLE, comparison.ROWS)
    for draw in (comparison_figures.slopes, comparison_figures.balance):
        figure = draw(records, [400, 2000])
        figure.canvas.draw()
        assert tuple(figure.get_size_inches()) == comparison_figures.WIDE
    figures.recall(records, [400, 2000], comparison.ROWS).canvas.draw()


# The figures


def boxes(figure):
    """Where every piece of text of the axes is, in pixels; of a joined label the words alone."""
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in [*ax.texts, *ax.get_yticklabels()]]
    for ax in figure.axes:  # ticks beyond the axis have a label, too, which is not drawn
        low, high = ax.get_xlim()
        texts += [t for x, t in zip(ax.get_xticks(), ax.get_xticklabels()) if low <= x <= high]
    shown = [t for t in texts if t.get_text() and t.get_visible()]
    return {(t.get_text(), i): Text.get_window_extent(t) for i, t in enumerate(shown)}


@pytest.mark.parametrize("records", [study(1), study(3, (400, 2000)), study(2, (100, 400, 2000, 4000), "rafdb")])
@pytest.mark.parametrize("name", ["slopes", "balance"])
def test_no_text_covers_another_and_none_is_cut(name, records):
    figure = getattr(comparison_figures, name)(records)
    places = boxes(figure)
    assert {text for text, _ in places} >= ({"FreeMatch"} if name == "slopes" else {"FreeMatch *"})
    for (a, box), (b, other) in itertools.combinations(places.items(), 2):
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        down = min(box.y1, other.y1) - max(box.y0, other.y0)
        assert across <= 1 or down <= 1, f"{a} covers {b}"
    assert not [text for text, box in places.items() if box.x0 < 0 or box.x1 > figure.bbox.width]


def test_slopes_are_hollow_where_published_and_filled_where_ours():
    ax = comparison_figures.slopes(study(2, (100, 400), "rafdb")).axes[0]
    lines = [line for line in ax.lines if len(line.get_xdata())]
    hollow = [line for line in lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 10 and len(lines) - len(hollow) == 13
    assert sorted(max(line.get_ydata()) for line in hollow)[-1] == 84.93


@pytest.mark.parametrize("places", [[0.5], [0.1, 0.9], [0.5, 0.5, 0.5], [0.99, 1.0, 0.2], [0.0, 0.01, 0.02, 0.9]])
def test_apart_moves_labels_no_more_than_needed(places):
    out = comparison_figures.apart(places, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(sorted(out)))
    assert all(-1e-9 <= y <= 1 + 1e-9 for y in out)
    assert np.argsort(out, kind="stable").tolist() == np.argsort(places, kind="stable").tolist()
    if all(abs(a - b) >= 0.1 for a, b in itertools.combinations(places, 2)):
        assert out == pytest.approx(places)
    assert comparison_figures.apart([], 0.1) == []


def test_ranks_and_means_look_at_the_seeds_that_all_methods_share():
    """A method that only ran on an easy seed must not lead for it."""
    runs = [r for r in synthetic.study(seeds=(0, 1, 2)) if r["kind"] == "run"]
    some = [r for r in runs if r["config"]["method"] != "fixmatch" or r["config"]["seed"] == 1]
    (ground, *_) = comparison.grounds(some)
    assert comparison.shared_seeds(some, *ground) == [1]
    ours = comparison.means(some, *ground)
    alone = [r for r in runs if r["config"]["seed"] == 1]
    assert ours == comparison.means(alone, *ground) != comparison.means(runs, *ground)
    assert "on the seeds that all share (1)" in comparison.answer(some, ground[1])
    apart = [r for r in some if r["config"]["method"] != "sitfer" or r["config"]["seed"] == 2]
    assert comparison.shared_seeds(apart, *ground) == [] and set(comparison.means(apart, *ground)) == set(ours)
