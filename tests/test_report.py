"""Tables say what the records say, whatever is missing; text is fixed-width; files are written whole and only once."""

import math
import statistics

import matplotlib
import numpy as np
import pytest
import synthetic
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fercore import fusion
from fercore.analysis import claims, tables
from fercore.data.expressions import EXPRESSIONS
from fercore.report import figures, printing

PARTIAL = [
    synthetic.pretrain(),
    *(synthetic.run(m, s) for m in ("supervised", "sitfer/semantic", "sitfer") for s in (0, 1)),
    synthetic.run("sitfer", 2, status="failed"),
    synthetic.run("fixmatch", 0, status="failed"),
]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def line(frame, row):
    return frame[frame["row"] == row].iloc[0]


def test_table2_is_mean_and_spread_of_the_mean_of_the_last_five():
    runs = synthetic.study()
    frame = tables.table2(runs)
    assert list(frame["row"]) == [row.name for row in tables.ROWS]
    ours = [
        100 * r["metrics"]["classifier"]["mean_last5"]["accuracy"]
        for r in runs[1:]
        if r["config"]["method"] == "sitfer"
    ]
    sitfer = line(frame, "+ L_t = SIT-FER")
    assert sitfer["ours"] == pytest.approx(statistics.fmean(ours))
    assert sitfer["ours ±"] == pytest.approx(statistics.stdev(ours))
    assert sitfer["best on test"] > sitfer["ours"] and sitfer["n"] == 3
    assert [sitfer[term] for term in tables.TERMS] == ["x"] * 5


def test_gain_is_over_the_row_above_and_paired():
    runs = [synthetic.run("sitfer/instance", s, accuracy=0.4 + s / 10) for s in range(3)]
    runs += [synthetic.run("sitfer", s, accuracy=0.42 + s / 10) for s in range(2)]
    sitfer = line(tables.table2(runs), "+ L_t = SIT-FER")
    assert sitfer["gain"] == pytest.approx(2.0) and sitfer["gain ±"] == pytest.approx(0.0, abs=1e-9)
    assert sitfer["ours"] - line(tables.table2(runs), "+ instance")["ours"] != pytest.approx(2.0)


def test_published_numbers_come_from_the_claims():
    frame = tables.table2([], 100)
    for row in tables.ROWS:
        assert line(frame, row.name)["RAF-DB/100"] == claims.published(row.table, row.method, "rafdb/100").value
    assert line(frame, "labels only")["SFEW/400"] == claims.published("sit-fer/I", "supervised", "sfew/400").value


def test_missing_and_failed_runs_stay_visible():
    frame = tables.table2(PARTIAL)
    assert (line(frame, "FixMatch")["n"], line(frame, "FixMatch")["failed"]) == (0, 1)
    assert (line(frame, "+ L_t = SIT-FER")["n"], line(frame, "+ L_t = SIT-FER")["failed"]) == (2, 1)
    printed = printing.text(frame[tables.MAIN]).splitlines()
    assert "failed" in printed[3] and "not run" in printed[5]
    assert "failed: sitfer, 2,000 labels, seed 2: loss is not finite at step 17" in tables.coverage(PARTIAL)
    assert "No finished run with 2,000 labels: FixMatch; + text; + instance." in tables.untested(PARTIAL)


def test_a_failed_run_that_finished_later_is_no_failure():
    runs = [synthetic.run("sitfer", 0, status="failed"), synthetic.run("sitfer", 0)]
    assert line(tables.table2(runs), "+ L_t = SIT-FER")[["n", "failed"]].tolist() == [1, 0]


def test_a_row_without_any_pseudo_label_is_called_idle():
    runs = synthetic.study(seeds=(0,))
    assert "passed the threshold" not in tables.answer(runs) and "kept less" not in tables.untested(runs)
    for record in runs[1:]:
        if record["config"]["method"] == "sitfer/text":
            for entry in record["history"]:
                entry |= {"kept": 0.0, "pseudo_accuracy_kept": None}
    assert tables.answer(runs).endswith("But no pseudo-label passed the threshold in: + text.")
    assert "+ text at 2,000 labels kept less than" in tables.untested(runs)


def test_one_seed_has_no_spread():
    frame = tables.table2(synthetic.study(seeds=(0,)))
    assert frame["ours ±"].isna().all() and frame["gain ±"].isna().all()
    assert "One seed alone" in tables.untested(synthetic.study(seeds=(0,)))


@pytest.mark.parametrize("runs", [[], PARTIAL, synthetic.study(seeds=(0,)), synthetic.study(labels=(400, 2000))])
def test_nothing_fails_on_any_set_of_records(runs):
    figures.style()
    for make in (figures.table2, figures.curves, figures.recall):
        figure = make(runs, 2000)
        figure.canvas.draw()
        width, height = figure.get_size_inches()
        assert (width, height) == figures.SIZE
    for make in (tables.table2, tables.levels_table, tables.recall_table):
        assert printing.text(make(runs, 2000)) and printing.markdown(make(runs, 2000))
    for make in (tables.head, tables.coverage, tables.answer, tables.untested, tables.provenance):
        assert make(runs)
    assert printing.text(tables.claims_table([c for c in claims.load() if c.kind == "direction"], runs), {"claim": 40})
    assert tables.states_table(claims.load(), runs)[list(claims.STATES)].to_numpy().sum() == len(claims.load())
    for claim in claims.load():
        assert tables.verdict(claim, runs).startswith(("reproduced", "partly", "not "))


def test_head_says_data_start_and_what_it_is_worth():
    head = tables.head(synthetic.study())
    for part in (
        "FER2013",
        "PublicTest",
        "300 more dropped",
        "happiness",
        "SimCLR",
        "abababab",
        "47.0 %",
        "36.0 %",
        "4,000 steps",
    ):
        assert part in head


def test_answer_and_verdict_are_computed():
    down = [
        synthetic.run(m, s, accuracy=0.5 - i / 100 + s / 1000) for i, m in enumerate(synthetic.HEIGHT) for s in range(3)
    ]
    assert "Table II's order is not reproduced" in tables.answer(down)
    assert "-3.00 points against its semantic level alone" in tables.answer(down)
    said = tables.verdict("sit-fer/text-loss", down)
    assert said.startswith("not reproduced") and "-1.00 points" in said and "+4.51 on RAF-DB/100" in said


def test_text_is_fixed_width_and_columns_line_up():
    lines = printing.text(tables.table2(PARTIAL)[tables.MAIN]).splitlines()
    assert "<" not in "".join(lines)
    rule = lines[1]
    for start in [i + 2 for i in range(len(rule) - 2) if rule[i : i + 2] == "  "]:
        assert all(row[start - 2 : start].strip() == "" for row in lines)
    assert len(rule) <= 120


def test_folded_cells_keep_their_row():
    frame = tables.claims_table([claims.find("sit-fer/components")], synthetic.study())
    lines = printing.text(frame, {"claim": 30}).splitlines()
    assert len(lines) == 2 + 3 and "+ instance" in lines[3] and all(len(row) <= 130 for row in lines)


def test_files_are_whole_and_untouched_when_nothing_changed(tmp_path):
    frame = tables.table2(PARTIAL)
    printing.save(frame, tmp_path, "table2", note=tables.head(PARTIAL))
    figures.style()
    figures.save(figures.table2(PARTIAL), tmp_path, "table2")
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["table2.csv", "table2.md", "table2.png"]
    before = [(f.read_bytes(), f.stat().st_mtime_ns) for f in files]
    printing.save(frame, tmp_path, "table2", note=tables.head(PARTIAL))
    figures.save(figures.table2(PARTIAL), tmp_path, "table2")
    assert before == [(f.read_bytes(), f.stat().st_mtime_ns) for f in files]
    assert "not run |" in files[1].read_text() and "FixMatch,x,x" in files[0].read_text()


def test_every_row_and_level_has_its_own_colour():
    assert len({figures.COLOURS[row.method] for row in tables.ROWS}) == len(tables.ROWS)
    assert len({figures.COLOURS[level] for level in tables.LEVELS}) == len(tables.LEVELS)


def test_gains_say_what_is_compared():
    statements = [c for c in claims.load() if c.kind == "direction"]
    figure = figures.gains(statements, synthetic.study())
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"SIT-FER over FixMatch", "+ $L_t$ over + instance", "fused pseudo-labels over semantic"} <= set(labels)
    assert "Ada-CM over FixMatch" in labels and len(labels) == len(set(labels))


def test_level_bars_draw_what_they_are_given():
    generator = torch.Generator().manual_seed(0)
    levels = {level: torch.randn(3, 7, generator=generator).softmax(1) for level in tables.LEVELS}
    images = np.zeros((3, 8, 8, 3), np.uint8)
    figure = figures.level_bars(images, levels, torch.tensor([0, 3, 6]), EXPRESSIONS)
    assert len(figure.axes) == 5 * 3
    heights = [bar.get_height() for bar in figure.axes[1 * 3 + 2].patches]
    assert heights == pytest.approx(levels["semantic"][2].tolist())


def test_entropy_of_certain_and_of_flat():
    p = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert fusion.entropy(p).tolist() == pytest.approx([0.0, math.log(4)])


def test_step_table_and_shapes():
    levels = {"semantic": torch.tensor([[0.9, 0.1], [0.5, 0.5]]), "text": torch.tensor([[0.9, 0.1], [1.0, 0.0]])}
    frame = tables.step_table(levels, torch.tensor([1, 0]), ("a", "b"))
    assert frame["true"].tolist() == ["b", "a"] and frame["semantic"][0] == "a 90"
    assert frame["H semantic"][1] == pytest.approx(math.log(2))
    assert frame["divergence"].tolist() == pytest.approx([0.0, 0.2158], abs=1e-4)
    assert tables.shapes(p=levels["semantic"])["shape"].tolist() == ["2 x 2"]
