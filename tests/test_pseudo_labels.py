"""Pseudo-labels: counts against a loop over faces, figures, the explorer, and what is said without dumps."""

import importlib
import io
import math
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image

from fercore.analysis import pseudo_labels, significance
from fercore.fusion import entropy, fuse
from fercore.report import explorer, figures, inline, pseudo_label_figures
from fercore.study import dumps, profiles, sweep
from fercore.training import loop, metrics

CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
FACES, STEPS = 60, (10, 20)
PROFILE = {
    "dataset": "facs", "dataset_options": {"n": 140, "test": 21}, "image_size": 16, "labels": [14], "seeds": [0, 1],
    "methods": ["sitfer"], "steps": 20, "evaluations": 2, "text": "onehot", "encoder": "toy",
}  # fmt: skip


def made_up(seed, names=("semantic", "text", "instance")):
    """Levels that are right on about half of the faces, and the labels."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.randint(7, (FACES,), generator=g)
    lean = 2 * torch.eye(7)[truth]
    return {name: (lean + 1.5 * torch.randn(FACES, 7, generator=g)).softmax(1) for name in names}, truth


@pytest.fixture
def study(tmp_path):
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(PROFILE))
    return profiles.load(tmp_path / "toy.yaml", results=tmp_path / "results")


def put(study, config, seed, names=("semantic", "text", "instance")):
    """Write a made-up dump of this run."""
    fingerprint = loop.setting.data("facs", None, size=16, options=config.dataset_options).faces.fingerprint
    unfinished = dumps.Unfinished(torch.arange(FACES), set(STEPS))
    for i, step in enumerate(STEPS):
        levels, _ = made_up(seed + 100 * i, names)
        unfinished.add(step, levels)
    record = {
        "key": config.key, "config": config.to_dict(), "data": {"classes": CLASSES, "fingerprint": fingerprint},
        "constants": {"tau": 0.6}, "metrics": {"classifier": {"mean_last5": {"accuracy": 0.5}}, "fused": None},
        "provenance": {"device": "cpu: made up", "finished": "2026-01-01T00:00:00Z"},
    }  # fmt: skip
    dumps.write(study.results, unfinished, record, made_up(seed + 100)[1])
    return dumps.read(study.results, config)


@pytest.fixture
def found(study):
    return [put(study, config, config.seed) for config in study.runs()]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


# Counts


def test_counts_as_a_loop_over_faces(found):
    table = pseudo_labels.counts_table(found)
    assert table[["seed", "step"]].to_numpy().tolist() == [[0, 10], [0, 20], [1, 10], [1, 20]]
    line, levels, truth = table.iloc[3], found[1].levels(1), found[1].labels.tolist()
    rescued = spoiled = 0
    for face, label in enumerate(truth):
        mean = sum(levels[name][face] for name in found[1].names) / 3
        before, after = int(levels["semantic"][face].argmax()) == label, int(mean.argmax()) == label
        rescued, spoiled = rescued + (after and not before), spoiled + (before and not after)
    assert rescued > 0 and spoiled > 0 and (line["rescued"], line["spoiled"]) == (rescued, spoiled)
    assert line["difference"] == pytest.approx(line["fused"] - line["semantic"], abs=1e-4)
    assert line["difference"] == pytest.approx(100 * (rescued - spoiled) / FACES)
    assert line["lower"] < line["difference"] < line["upper"]


def test_classes_and_credit_add_up_to_the_counts(found):
    last = pseudo_labels.counts_table(found).query("step == 20")
    classes, credit = pseudo_labels.classes_table(found), pseudo_labels.credit_table(found)
    assert classes["class"].tolist() == credit["class"].tolist() == list(CLASSES)
    for kind in ("rescued", "spoiled"):
        parts = [c for c in credit if c.startswith(kind)]
        assert [c.split("\n")[1] for c in parts] == ["text alone", "instance alone", "both", "none"]
        assert credit[parts].sum(axis=1).tolist() == classes[kind].tolist()
        assert classes[kind].sum() == last[kind].sum()
    assert classes["faces"].sum() == 2 * FACES and (classes["p, Holm"] >= classes["p"]).all()


def test_credit_as_a_loop():
    levels, _ = made_up(3)
    levels |= {"fused": fuse(levels)}
    credit = pseudo_labels.credit(levels, ("semantic", "text", "instance"))
    for face in range(FACES):
        named = int(levels["fused"][face].argmax())
        agree = [name for name in ("text", "instance") if int(levels[name][face].argmax()) == named]
        expected = {0: "none", 1: f"{agree[0]} alone" if agree else "", 2: "both"}[len(agree)]
        assert [who for who, rows in credit.items() if rows[face]] == [expected]


def test_training_and_confidence(found):
    table = pseudo_labels.training_table(found)
    levels = [pseudo_labels.look(dump, 1)["fused"] for dump in found]
    sure = [p.max(1).values > 0.6 for p in levels]
    right = [p.argmax(1) == dump.labels for p, dump in zip(levels, found)]
    assert table["above tau"][1] == pytest.approx(100 * float(torch.cat(sure).float().mean()), abs=1e-3)
    right_sure = torch.cat(right)[torch.cat(sure)]
    assert table["right, above"][1] == pytest.approx(100 * float(right_sure.float().mean()), abs=1e-3)


def test_reliability_bins_as_a_loop():
    levels, truth = made_up(5)
    p = levels["semantic"]
    frame = pseudo_labels.bins(p, truth)
    for i in range(10):
        rows = [r for r in range(FACES) if int(float(p[r].max()) * 10) == i]
        assert frame["faces"][i] == len(rows)
        if rows:
            assert frame["said"][i] == pytest.approx(100 * np.mean([float(p[r].max()) for r in rows]), rel=1e-5)
            assert frame["right"][i] == pytest.approx(100 * np.mean([int(p[r].argmax()) == truth[r] for r in rows]))
        else:
            assert math.isnan(frame["right"][i])


def test_reliability_is_that_of_the_metrics(found):
    table = pseudo_labels.reliability_table(found).set_index("level")
    levels, truth = pseudo_labels.pooled(found)
    for level, p in levels.items():
        assert table["ECE"][level] == pytest.approx(100 * metrics.calibration_error(p, truth))
    sure = pd.Series(table["confidence"] > table["right"])
    assert (table["it is"] == np.where(sure, "too sure", "not sure enough")).all()


def test_fusing_adds_exactly_the_disagreement(found):
    levels, _ = pseudo_labels.pooled(found)
    values = pseudo_labels.disagreement(levels)
    assert torch.allclose(values["H alone"] + values["disagreement"], entropy(levels["fused"]), atol=1e-4)
    table = pseudo_labels.disagreement_table(found)
    assert table["faces"].sum() == 2 * FACES and table["disagreement"].is_monotonic_increasing
    assert (table["H fused"] - table["H alone"]).tolist() == pytest.approx(table["disagreement"].tolist(), abs=1e-4)


def test_picked_faces_are_of_the_kind_sure_ones_first_and_of_many_classes():
    levels, truth = made_up(0)
    levels |= {"fused": fuse(levels)}
    rows = pseudo_labels.pick(levels, truth, "rescued", 100)
    assert set(rows.tolist()) == set(pseudo_labels.outcome(levels, truth)["rescued"].nonzero()[:, 0].tolist())
    labels = truth[rows].tolist()
    distinct = len(set(labels))
    assert distinct > 2 and len(set(labels[:distinct])) == distinct
    sure = levels["fused"][rows[:distinct]].max(1).values
    assert (sure.diff() <= 0).all()


def test_order():
    levels, _ = made_up(1)
    levels |= {"fused": fuse(levels)}
    rows = torch.tensor([3, 8, 13, 21])
    for level in levels:
        sure = levels[level].max(1).values[pseudo_labels.order(levels, rows, "confidence", level)]
        assert (sure.diff() <= 0).all()
    apart = pseudo_labels.disagreement(levels)["disagreement"][pseudo_labels.order(levels, rows, "disagreement")]
    assert (apart.diff() <= 0).all()


def test_a_method_with_one_level(study):
    dump = put(study, study.runs()[0], 0, names=("semantic",))
    table = pseudo_labels.counts_table([dump])
    assert (table["rescued"] == 0).all() and (table["p"] == 1).all()
    assert pseudo_labels.disagreement_table([dump])["disagreement"].abs().max() < 1e-6


# Tests over faces


@pytest.mark.parametrize("plus, minus, p", [(0, 0, 1), (5, 5, 1), (5, 0, 2 / 32), (1, 7, 18 / 256), (900, 0, 0)])
def test_sign_test(plus, minus, p):
    assert significance.sign_test(plus, minus) == significance.sign_test(minus, plus) == pytest.approx(p, abs=1e-12)


def test_sign_test_is_that_of_the_flips():
    for plus, minus in ((3, 1), (2, 6), (9, 4)):
        assert significance.sign_test(plus, minus) == pytest.approx(significance.p_value([1.0] * plus + [-1.0] * minus))


def test_counted_interval_is_that_of_the_differences():
    d = np.repeat([1, -1, 0], [40, 25, 235])
    low, high = significance.counted_interval(40, 25, 300)
    assert (low + high) / 2 == pytest.approx(d.mean())
    assert (high - low) / 2 == pytest.approx(1.959964 * d.std() / math.sqrt(300), rel=1e-5)
    assert all(map(math.isnan, significance.counted_interval(0, 0, 0)))


# Which dumps and faces


def test_dumps_of_the_largest_budget_and_their_own_faces(study, found):
    assert [d.path for d in pseudo_labels.of(study, study.runs())] == [d.path for d in found]
    faces = pseudo_labels.shown(study, found)
    assert faces.dump is found[0] and faces.images.shape == (FACES, 16, 16, 3)
    expected = loop.setting.data("facs", None, size=16, options=found[0].config.dataset_options).faces.images
    assert np.array_equal(faces.images[5].transpose(2, 0, 1), expected[5])
    assert pseudo_labels.beside(found, faces) == found


def test_faces_that_are_others_by_now_are_not_shown(study, found):
    found[0].about["fingerprint"] = "another"
    assert pseudo_labels.pictures(study, found) is None


def test_without_data_drawn_faces_stand_in_and_the_study_is_not_run(tmp_path):
    study = profiles.load("fer2013", data_root=tmp_path / "absent", results=tmp_path / "results")
    own = pseudo_labels.of(study, study.runs(["sitfer"]))
    assert own == []
    faces = pseudo_labels.shown(study, own)
    both = pseudo_labels.beside(own, faces)
    gathered, shown = pseudo_labels.gather(study, study.runs(["sitfer"]))
    assert [d.path for d in gathered] == [d.path for d in both] and shown.dump.path == faces.dump.path
    assert faces.dump.config.dataset == "facs" and both == [faces.dump]
    assert pseudo_labels.answer(study, both).startswith("FER2013: not run.\nOn rendered faces/105 the fusion rescues")
    said = pseudo_labels.coverage(study, both, faces)
    assert "`python -m fercore dump fer2013 --labels 2000 --data-root DIR`" in said and "rendered faces" in said
    assert "metrics equal to its record's" in pseudo_labels.provenance(both)
    assert pseudo_labels.verdict([]) == pseudo_labels.smoothing([]) == "not run"


def test_the_committed_faces_are_under_half_a_megabyte():
    for path in sweep.paths.RESULTS.glob("*/dumps/*.safetensors"):
        assert path.stat().st_size < 500_000, path


def test_verdict_needs_two_runs(study, found):
    both, alone = pseudo_labels.verdict(found), pseudo_labels.verdict(found[:1])
    assert both.startswith("rendered faces/14: reproduced: ") and both.endswith("over 2 runs")
    assert alone.startswith("rendered faces/14: partly reproduced: ") and alone.endswith("one run")


# Figures


@pytest.mark.parametrize("name", ["training", "credit", "smoothing", "reliability"])
def test_figures_of_several_runs_and_of_none(name, found):
    draw = getattr(pseudo_label_figures, name)
    assert len(draw(found).axes) >= 1 and draw(found[:1]).axes
    assert [t.get_text() for t in draw([]).axes[0].texts] == ["not run"]


def test_the_reliability_drawn_is_the_table(found):
    ax = pseudo_label_figures.reliability(found).axes[0]
    frame = pseudo_labels.bins_table(found)["semantic\nright"].dropna()
    assert ax.lines[1].get_ydata().tolist() == pytest.approx(frame.tolist())
    ax = pseudo_label_figures.smoothing(found).axes[0]
    drawn = pseudo_labels.disagreement_table(found)["H fused"]
    assert ax.lines[0].get_ydata().tolist() == pytest.approx(drawn.tolist())


def test_faces_are_titled_by_their_class_in_the_colour_of_what_becomes_of_them(study, found):
    faces = pseudo_labels.shown(study, found)
    table = pseudo_labels.examples_table(faces)
    figure = pseudo_label_figures.faces(faces)
    titles = [ax.title for ax in figure.axes[: len(table)]]
    assert [t.get_text() for t in titles] == table["true"].tolist()
    assert [t.get_color() for t in titles] == [pseudo_label_figures.SIDES[kind] for kind in table["it is"]]
    assert set(table["it is"]) == {"rescued", "spoiled"}
    assert pseudo_label_figures.faces(None).axes[0].texts[0].get_text() == "not run"
    assert pseudo_labels.examples_table(None).empty


def test_inline_figures_have_a_palette_and_keep_the_colours_of_few_pixels():
    figures.style()
    figure, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    ax.plot(0, 0, "s", ms=4, color="#009E73", mew=0)
    plain = io.BytesIO()
    figure.savefig(plain, format="png", dpi=figure.dpi, bbox_inches="tight")
    small = inline.png(figure)
    assert len(small) < 0.8 * len(plain.getvalue())
    image = Image.open(io.BytesIO(small))
    assert image.mode == "P" and image.size == Image.open(plain).size
    nearest = np.abs(np.asarray(image.convert("RGB")).astype(int) - [0x00, 0x9E, 0x73]).sum(2).min()
    assert nearest < 24


def test_inline_figures_are_registered_with_a_notebook_and_nowhere_else(monkeypatch):
    shell = pytest.importorskip("IPython").core.interactiveshell.InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    inline.register()
    inline.register()
    assert shell.events.callbacks["pre_run_cell"].count(inline._use) == 1
    shell.events.trigger("pre_run_cell", None)
    assert shell.display_formatter.formatters["image/png"].for_type(Figure) is inline.png


# The explorer


@pytest.fixture
def open_one(study, found):
    pytest.importorskip("ipywidgets")
    return explorer.Explorer(pseudo_labels.shown(study, found))


def test_every_control_changes_what_is_drawn(open_one):
    changes = {"sort": "levels agree most", "step": 0, "level": "text", "label": "anger", "kind": "rescued"}
    for control, value in {"page": 2, **changes}.items():
        before = bytes(open_one.image.value)
        assert before.startswith(b"\x89PNG")
        getattr(open_one, control).value = value
        assert bytes(open_one.image.value) != before, control


def test_explorer_chooses_and_counts(open_one):
    dump = open_one.shown.dump
    assert len(open_one.rows()) == FACES and open_one.page.max == 5 and "60 faces" in open_one.count.value
    open_one.page.value = 3
    open_one.kind.value, open_one.label.value = "spoiled", "fear"
    levels = pseudo_labels.look(dump)
    expected = pseudo_labels.outcome(levels, dump.labels)["spoiled"] & (dump.labels == CLASSES.index("fear"))
    assert set(open_one.rows().tolist()) == set(expected.nonzero()[:, 0].tolist())
    assert open_one.page.value == open_one.page.max == 1
    open_one.kind.value = open_one.label.value = "all"
    open_one.level.value, open_one.sort.value = "text", "least confident first"
    assert (levels["text"].max(1).values[open_one.rows()].diff() >= 0).all()


def test_explorer_leaves_no_figure_open_and_shows_itself(open_one):
    assert plt.get_fignums() == []
    assert "application/vnd.jupyter.widget-view+json" in open_one._repr_mimebundle_()


def test_explorer_with_no_face_to_show(open_one):
    open_one.label.value = "surprise"
    for kind in ("rescued", "spoiled"):
        open_one.kind.value = kind  # draws, be it nothing
    assert bytes(open_one.image.value).startswith(b"\x89PNG")


def test_without_ipywidgets_the_figure_stays(study, found, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "fercore.report.explorer")
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    anew = importlib.import_module("fercore.report.explorer")
    assert anew.show(pseudo_labels.shown(study, found), plt.figure()) is None


def test_without_a_live_notebook_the_figure_stays(study, found, monkeypatch):
    faces = pseudo_labels.shown(study, found)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    figure = pseudo_label_figures.page(faces)
    assert explorer.show(faces, figure) is None and plt.get_fignums() == [figure.number]
    monkeypatch.setenv("JPY_SESSION_NAME", "14.ipynb")
    assert explorer.show(None, figure) is None and plt.get_fignums() == [figure.number]
    pytest.importorskip("ipywidgets")
    assert isinstance(explorer.show(faces, figure), explorer.Explorer) and plt.get_fignums() == []
