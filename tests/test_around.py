"""Points around SIT-FER: tables say what the records say, sentences turn when they do, figures draw every run."""

import math
import statistics
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import synthetic
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fercore import text
from fercore.analysis import ablations, claims, prompts, sensitivity, tables
from fercore.data.expressions import EXPRESSIONS
from fercore.report import ablation_figures, figures, printing
from fercore.report import prompt_figures as drawn_words
from fercore.study import plan, profiles

PROMPTS, FIGURE4, PAGE = "12_table3_prompts", "13_figure4_thresholds", "16_sensitivity"
STUDY = profiles.load("fer2013")


@pytest.fixture(autouse=True)
def close_figures():
    figures.style()
    yield
    plt.close("all")


def made(notebook, seeds=(0, 1, 2), heights=None, without=(), rival=0.45, study=STUDY):
    """Records of the base (0.50), FixMatch and a notebook's points: `heights` by (axis, value) or axis, else 0.48."""
    heights, out = heights or {}, {}

    def add(config, height):
        if config.seed in seeds:
            wobble = 0.01 * config.seed + 0.0004 * (len(str(height)) * (config.seed + 1) % 7)
            record = synthetic.of(config, height + wobble)
            out.setdefault(record["key"], record)

    for config in plan.base(study):
        add(config, 0.50)
    for config in plan.base(study, "fixmatch"):
        add(config, rival)
    for point, runs in plan.points(study, notebook):
        if not {point.axis, (point.axis, point.value)} & set(without):
            for config in runs:
                usual = rival if config.method == "fixmatch" else 0.48
                add(config, heights.get((point.axis, point.value), heights.get(point.axis, usual)))
    return [synthetic.pretrain(), *out.values()]


def settings(notebook, **how):
    return ablations.settings(STUDY, notebook, made(notebook, **how))


def at(found, axis, value):
    (here,) = [s for s in found if (s.axis, s.value) == (axis, value)]
    return here


def measured(records, seeds=(0, 1, 2), **config):
    """Accuracy by seed of the runs whose configuration says this, from the records alone."""
    wanted = {"method": "sitfer", "options": {}, "text": "minilm", "prompt": text.PROMPTS[0], "lr": 3e-4} | config
    found = {}
    for r in records:
        if r["kind"] == "run" and all(r["config"][key] == value for key, value in wanted.items()):
            found[r["config"]["seed"]] = 100 * r["metrics"]["classifier"]["mean_last5"]["accuracy"]
    return [found[seed] for seed in seeds]


def minus(a, b):
    return [x - y for x, y in zip(a, b)]


# Which runs


def test_points_are_found_by_key_and_the_base_has_its_place_on_every_axis_of_constants():
    found = settings(FIGURE4)
    assert [s.value for s in found if s.axis == "tau"] == ["0.6", "0.7", "0.8", "0.9", "0.95"]
    assert [s.value for s in found if s.axis == "delta"] == ["0.8", "0.85", "0.9", "0.95", "0.98", "0.99"]
    assert [s.value for s in found if s.chosen] == ["0.8", "0.95"]
    for s in found:
        assert len(s.done) == 3 and {str(r["config"]["options"].get(s.axis, s.value)) for r in s.runs} == {s.value}
    votes = [s for s in settings(PAGE) if s.axis == "vote"]
    assert [(s.value, s.chosen) for s in votes] == [("sum", True), ("mean", False), ("prior", False)]


def test_every_budget_of_the_points_has_its_own_lines():
    study = replace(STUDY, points={"labels": [2000, 400], "seeds": [0]})
    found = ablations.settings(study, FIGURE4, made(FIGURE4, study=study))
    assert [s.labels for s in found] == [2000] * 11 + [400] * 11
    assert all({r["config"]["labels"] for r in s.runs} == {s.labels} for s in found)
    assert len(ablations.table(found, "tau")) == 10


# Figure 4


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_threshold_table_is_what_the_records_say(seeds):
    records = made(FIGURE4, seeds, {("tau", "0.7"): 0.47})
    found = ablations.settings(STUDY, FIGURE4, records)
    table = ablations.table(found, "tau").set_index("value")
    ours, base = (measured(records, seeds, options=options) for options in ({"tau": 0.7}, {}))
    line, d = table.loc["0.7"], minus(ours, base)
    assert line["ours"] == pytest.approx(statistics.fmean(ours)) and line["n"] == len(seeds)
    assert line["difference"] == pytest.approx(statistics.fmean(d))
    if len(seeds) > 1:
        assert line["ours ±"] == pytest.approx(statistics.stdev(ours))
        assert line["difference ±"] == pytest.approx(statistics.stdev(d) / math.sqrt(3))
    else:
        assert math.isnan(line["ours ±"]) and math.isnan(line["difference ±"])
    tails = [h for s in found if (s.axis, s.value) == ("tau", "0.7") for r in s.runs for h in r["history"][-5:]]
    for column, name in {"kept": "kept", "right": "pseudo_accuracy", "right, kept": "pseudo_accuracy_kept"}.items():
        assert line[column] == pytest.approx(100 * statistics.fmean(h[name] for h in tails))
    assert line["memory"] == tails[-1]["memory"] == 2200
    assert math.isnan(table.loc["0.8 (base)"]["difference"])


def test_the_summit_turns_with_the_numbers():
    inside = {("delta", "0.8"): 0.46, ("delta", "0.99"): 0.46}
    said = ablations.summit(settings(FIGURE4, heights=inside), "delta")
    assert ": reproduced: delta 0.95 is highest and lies inside" in said
    said = ablations.summit(settings(FIGURE4, heights={("delta", "0.99"): 0.55}), "delta")
    assert "not reproduced: an end, delta 0.99, is highest of 6 values" in said
    said = ablations.summit(settings(FIGURE4, seeds=(0,), heights=inside), "delta")
    assert "partly reproduced" in said and "One seed cannot tell" in said
    assert "not run" in ablations.summit(settings(FIGURE4, without=[("delta", "0.8")]), "delta")
    assert "not run" in ablations.summit(ablations.settings(STUDY, FIGURE4, []), "delta")


def test_the_statement_on_tau_is_four_steps():
    rise = {("tau", "0.6"): 0.46, ("tau", "0.7"): 0.48, ("tau", "0.9"): 0.48, ("tau", "0.95"): 0.46}
    assert tables.verdict("sit-fer/tau", made(FIGURE4, heights=rise)).startswith("reproduced")
    fall = rise | {("tau", "0.95"): 0.49}
    said = tables.verdict("sit-fer/tau", made(FIGURE4, heights=fall))
    assert said.startswith("partly reproduced")
    assert "tau 0.9 over tau 0.95 -" in said and "SIT-FER over tau 0.9 +" in said
    assert tables.verdict("sit-fer/tau", made(FIGURE4, (0,), rise)).startswith("partly reproduced")
    assert tables.verdict("sit-fer/tau", []).startswith("not run")


def test_ends_and_coverage_name_what_is_missing_and_what_failed():
    records = made(FIGURE4, without=["tau"])
    broken = next(runs for point, runs in plan.points(STUDY, FIGURE4) if point.value == "0.6")[0]
    found = ablations.settings(STUDY, FIGURE4, [*records, synthetic.of(broken, status="failed")])
    said = ablations.coverage(found)
    assert "5 of 9 points have runs, seeds 0, 1, 2" in said and "not run: tau 0.7, 0.9, 0.95" in said
    assert "failed: tau 0.6, 2,000 labels, seed 0: loss is not finite at step 17" in said
    assert "failed" in printing.text(ablations.table(found, "tau"))
    assert "tau 0.6 against the base: not run." in ablations.ends(found, "tau")


# Sensitivity


def test_gains_are_over_fixmatch_and_at_the_same_learning_rate():
    records = made(PAGE, heights={"lr of FixMatch": 0.40, "lr": 0.47, ("lambda_2", "0.2"): 0.44})
    table = sensitivity.gains(ablations.settings(STUDY, PAGE, records)).set_index(["constant", "value"])
    base, rival = measured(records), measured(records, method="fixmatch")
    gain = minus(measured(records, options={"lambda_2": 0.2}), rival)
    assert table.loc[("lambda_2", "0.2")]["gain"] == pytest.approx(statistics.fmean(gain))
    change = minus(measured(records, options={"lambda_2": 0.2}), base)
    assert table.loc[("lambda_2", "0.2")]["change"] == pytest.approx(statistics.fmean(change))
    low = {"lr": 1e-4}
    gain = minus(measured(records, **low), measured(records, method="fixmatch", **low))
    line = table.loc[("lr", "0.33 x")]
    assert line["gain"] == pytest.approx(statistics.fmean(gain))
    change = minus(gain, minus(base, rival))
    assert line["change"] == pytest.approx(statistics.fmean(change))
    assert line["change ±"] == pytest.approx(statistics.stdev(change) / math.sqrt(3))
    assert "lr of FixMatch" not in {constant for constant, _ in table.index}


def test_the_widest_bar_comes_first_and_those_without_a_run_last():
    heights = {("t_text", "0.03"): 0.42, ("t_text", "0.1"): 0.53, ("alpha", "0"): 0.44}
    found = settings(PAGE, heights=heights, without=["window"])
    order = [axis for _, axis, _ in sensitivity.bars(found)]
    assert order[:2] == ["t_text", "alpha"] and order[-1] == "window"
    rows = [s for s in found if s.axis == "t_text"]
    ends = [statistics.fmean(s.change().values()) for s in rows if not s.chosen]
    assert sensitivity.width(rows) == pytest.approx(max(ends) - min(ends)) and min(ends) < 0 < max(ends)
    assert math.isnan(sensitivity.width([s for s in found if s.axis == "window"]))


def test_the_gain_is_robust_until_a_constant_turns_it():
    steady = sensitivity.robustness(settings(PAGE))
    assert "Its sign never turns." in steady and "n = 3" in steady
    turned = sensitivity.robustness(settings(PAGE, heights={("lambda_1", "2"): 0.40}))
    assert "Its sign turns with lambda_1 2." in turned and "lambda_1 moves it most" in turned
    assert "One seed has no spread" in sensitivity.robustness(settings(PAGE, seeds=(0,)))
    assert "not run" in sensitivity.robustness(ablations.settings(STUDY, PAGE, []))
    points = {point.axis for point, _ in plan.points(STUDY, PAGE)}
    assert "no run of the points" in sensitivity.robustness(settings(PAGE, without=points))


def test_votes_by_class():
    records = made(PAGE)
    counts = [1, 2, 3, 4, 5, 6, 19]
    for r in records:
        if r["kind"] == "run" and r["config"]["options"] == {"vote": "mean"}:
            r["metrics"]["classifier"]["last"]["recall"] = [0.1 * (k + 1) for k in range(7)]
            for h in r["history"]:
                h["pseudo_counts"] = counts
    found = ablations.settings(STUDY, PAGE, records)
    table = sensitivity.classes_table(found).set_index("class")
    assert list(table.index)[:2] == ["happiness", "neutral"] and table.index[-1] == "disgust"
    assert table["of the faces"].sum() == pytest.approx(100)
    for k, name in enumerate(EXPRESSIONS):
        assert table.loc[name]["recall\nmean"] == pytest.approx(10 * (k + 1))
        assert table.loc[name]["of the kept\nmean"] == pytest.approx(100 * counts[k] / 40)
        assert table.loc[name]["of the kept\nsum"] == pytest.approx(100 / 7)
    line = sensitivity.votes_table(found).set_index("vote").loc["mean"]
    assert line["macro F1"] == pytest.approx(line["ours"] - 4)  # as synthetic.run makes it
    said = sensitivity.balance(found)
    sums = at(found, "vote", "sum").done
    moved = 100 * (0.4 - np.mean([r["metrics"]["classifier"]["last"]["recall"][3] for r in sums]))
    assert f"happiness, the most frequent, {moved:+.1f}" in said and "prior is all but mean" in said
    assert "not run" in sensitivity.balance(settings(PAGE, without=["vote"]))


# Words


def test_prompts_beside_the_published_ones():
    records = made(PROMPTS, heights={("minilm", text.PROMPTS[2]): 0.46})
    found = ablations.settings(STUDY, PROMPTS, records)
    table = prompts.table3(found)
    assert list(table["prompt"]) == list(text.PROMPTS)
    for row, prompt in {"phrase": 0, "active": 1, "passive": 2}.items():
        cell = claims.published("sit-fer/III", row, "rafdb/400")
        assert (table["RAF-DB/400"][prompt], table["RAF-DB/400 ±"][prompt]) == (cell.value, cell.spread)
    d = minus(measured(records, prompt=text.PROMPTS[2]), measured(records))
    assert table["difference"][2] == pytest.approx(statistics.fmean(d)) and math.isnan(table["difference"][0])
    assert tables.verdict("sit-fer/prompts", prompts.own_runs(found)).startswith("reproduced")
    best = settings(PROMPTS, heights={("minilm", text.PROMPTS[1]): 0.55})
    assert tables.verdict("sit-fer/prompts", prompts.own_runs(best)).startswith("partly")


def test_encoders_are_told_apart_by_their_meaning():
    found = settings(PROMPTS, heights={"random": 0.52}, without=["clip:ViT-B-32/openai"])
    table = prompts.encoders_table(found)
    assert len(table) == len(plan.points(STUDY, PROMPTS)) == 13 and list(table["n"]).count(0) == 3
    tails = [h["level_accuracy"]["text"] for r in at(found, "random", "").done for h in r["history"][-5:]]
    line = table[table["encoder"] == "random"].iloc[0]
    assert line["text\nright"] == pytest.approx(100 * statistics.fmean(tails))
    said = prompts.meaning(found)
    assert "minilm is number 2" in said and "(random)" in said and "shuffled:minilm against minilm: -" in said
    assert "minilm is number 1" in prompts.meaning(settings(PROMPTS))
    assert "shuffled:minilm against minilm: not run." in prompts.meaning(ablations.settings(STUDY, PROMPTS, []))
    assert "ours, clip:ViT-B-32/openai, 2,000 labels: not run" in prompts.spread(found)


def test_the_cosines_are_those_of_the_vectors(monkeypatch):
    monkeypatch.setattr(text, "encode", lambda *_: pytest.fail("an encoder was run for a picture"))
    found = settings(PROMPTS, seeds=(0,))
    table = prompts.cosines_table(found).set_index(["encoder", "prompt"])
    vectors = text.table("minilm", text.PROMPTS[0], EXPRESSIONS)
    apart = [float(vectors[a] @ vectors[b]) for a in range(7) for b in range(a)]
    line = table.loc[("minilm", "1")]
    assert line["mean cosine"] == pytest.approx(statistics.fmean(apart), abs=1e-5)
    assert (line["smallest"], line["largest"]) == pytest.approx((min(apart), max(apart)), abs=1e-5)
    a, b = line["closest"].split(", ")
    assert float(vectors[EXPRESSIONS.index(a)] @ vectors[EXPRESSIONS.index(b)]) == pytest.approx(max(apart))
    assert table.loc[("clip:ViT-B-32/openai", "1")]["width"] == "not run"  # ran, but its table is not here
    assert table.loc[("onehot", "")]["closest"] == ""


def test_the_least_text_loss_in_closed_form_and_below_every_feature():
    k, temperature = 7, 0.4
    orthonormal = prompts.least_loss(torch.eye(k, 20), temperature)
    # The best feature is the class's own corner of the simplex that is left when the mean is taken away.
    expected = math.log1p((k - 1) * math.exp(-math.sqrt(k / (k - 1)) / temperature))
    assert orthonormal.tolist() == pytest.approx([expected] * k, rel=1e-4)
    vectors = text.table("minilm", text.PROMPTS[0], EXPRESSIONS)
    least = prompts.least_loss(vectors, temperature)
    draw = torch.Generator().manual_seed(0)
    near = vectors - vectors.mean(0) + 0.02 * torch.randn(500, 1, vectors.shape[1], generator=draw)
    losses = -(torch.nn.functional.normalize(near, dim=2) @ vectors.T / temperature).log_softmax(2).diagonal(0, 1, 2)
    assert (losses > least).all() and (losses.min(0).values < 1.2 * least).all()


# Figures


def points_drawn(ax, marker="o"):
    return sum(len(line.get_xdata()) for line in ax.lines if line.get_marker() == marker)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("axis", ["tau", "delta"])
def test_figure_4_draws_every_seed_and_marks_the_optimum(axis, seeds):
    found = settings(FIGURE4, seeds=seeds)
    figure = ablation_figures.thresholds(found, axis)
    here, ax = [s for s in found if s.axis == axis], figure.axes[0]
    assert points_drawn(ax) == len(here) * len(seeds) and points_drawn(figure.axes[4]) == 2 * len(here) * len(seeds)
    drawn = sorted(y for line in ax.lines if line.get_marker() == "o" for y in line.get_ydata())
    assert drawn == pytest.approx(sorted(x for s in here for x in ablations.measures(s)))
    assert len(ax.collections) == (len(seeds) > 1)  # a band needs two seeds
    mean = next(line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == len(here))
    assert mean.get_ydata() == pytest.approx([statistics.fmean(ablations.measures(s)) for s in here])
    assert points_drawn(ax, "v") == (axis == "tau") and ("value lost" in ax.get_title()) == (axis == "delta")
    assert [len(a.lines) for a in figure.axes[1::2]] == [len(here)] * 4


def test_figure_4_joins_the_seeds_that_all_values_have():
    found = [replace(s, runs=s.runs[:1]) if s.value == "0.7" else s for s in settings(FIGURE4)]
    ax, here = ablation_figures.thresholds(found, "tau").axes[0], [s for s in found if s.axis == "tau"]
    (mean,) = (line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == len(here))
    assert mean.get_ydata() == pytest.approx([ablations.measures(s)[0] for s in here])
    assert points_drawn(ax) == sum(len(s.done) for s in here) == 3 * (len(here) - 1) + 1
    assert not ax.collections  # of one shared seed there is no spread


def test_the_tornado_draws_every_bar_and_names_what_did_not_run():
    found = settings(PAGE, without=["window", ("alpha", "0.9")])
    figure = ablation_figures.tornado(found)
    ax = figure.axes[0]
    table = sensitivity.gains(found)
    changes = table["change"].dropna()
    assert sorted(bar.get_width() for bar in ax.patches) == pytest.approx(sorted(changes))
    middle = statistics.fmean(at(found, "delta", "0.95").gain().values())
    assert [bar.get_x() for bar in ax.patches] == pytest.approx([middle] * len(changes))
    assert points_drawn(ax) == 3 * len(changes)
    assert figure.get_supxlabel() == "not run: alpha 0.9; window 8, 128"
    band = ablation_figures.tornado(found, noise=0.4).axes[0].patches[-1]
    assert (band.get_x(), band.get_width()) == pytest.approx((middle - 0.4, 0.8))


def test_the_votes_draw_every_class_and_seed():
    left, right = ablation_figures.votes(settings(PAGE)).axes
    assert points_drawn(left, ".") == points_drawn(right, ".") == 3 * 3 * 7 and len(right.patches) == 7
    assert [points_drawn(left, marker) for marker in "osD"] == [7, 7, 7]


def test_the_encoders_draw_every_seed_and_the_cosines_every_cell():
    found = settings(PROMPTS, without=["clip:ViT-B-32/openai"])
    axes = drawn_words.encoders(found).axes
    assert [points_drawn(ax) for ax in axes] == [3 * 10] * 3
    assert [a.get_text() for a in axes[0].texts].count("not run") == 3
    panels = [ax for ax in drawn_words.cosines(found).axes if ax.get_visible()]
    said = {ax.get_title(): [t.get_text() for t in ax.texts] for ax in panels}
    assert len(said) == 7 and said["clip:ViT-B-32/openai"] == ["not run"]
    cosines = prompts.cosines(text.table("minilm", text.PROMPTS[0], EXPRESSIONS))
    assert said["minilm"] == [str(round(100 * float(c))) for c in cosines.flatten()]
    assert set(said["onehot"]) == {"0", "100"}


def test_without_a_record_everything_says_so(tmp_path):
    for notebook in (PROMPTS, FIGURE4, PAGE):
        found = ablations.settings(STUDY, notebook, [])
        assert "points have runs, seeds none" in ablations.coverage(found)
        assert printing.text(ablations.table(found)).count("not run") == len(found)
    drawn = [ablation_figures.thresholds(ablations.settings(STUDY, FIGURE4, []), axis) for axis in ("tau", "delta")]
    page, read = ablations.settings(STUDY, PAGE, []), ablations.settings(STUDY, PROMPTS, [])
    drawn += [ablation_figures.tornado(page), ablation_figures.votes(page), drawn_words.encoders(read)]
    for i, figure in enumerate([*drawn, drawn_words.cosines(read)]):
        assert "not run" in {t.get_text() for t in figure.findobj(matplotlib.text.Text)}
        figures.save(figure, tmp_path, str(i))
    assert len(list(tmp_path.glob("*.png"))) == 6
    assert sensitivity.classes_table(page).empty and sensitivity.gains(page)["n"].sum() == 0
