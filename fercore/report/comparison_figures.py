"""Figures of Table I, for whatever methods there are. Style, colours and markers are in figures.py."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from sklearn.isotonic import IsotonicRegression

from fercore.analysis import comparison
from fercore.analysis.claims import data_name
from fercore.analysis.tables import order
from fercore.methods.api import METHODS, title
from fercore.report.figures import FAINT, INK, OTHER, colour, curve, marker, rules

WIDE = (7.4, 4.0)  # inches


def learning(history: pd.DataFrame) -> Figure:
    """Test accuracy (%) over the steps, and the share of unlabelled faces in the loss; mean and range of the seeds.

    `history` as tables.history gives it. A reader's own method, of no family, is drawn wider.
    """
    figure, axes = plt.subplots(1, 2, figsize=WIDE, width_ratios=(1.4, 1))
    for method in order(history.method):
        look = (colour(method), title(method), 2.2 if colour(method) == OTHER else 1.2)
        for ax, what in zip(axes, ("accuracy", "kept")):
            curve(ax, history[history.method == method], what, *look)
    axes[0].set(xlabel="step", ylabel="test accuracy (%)")
    axes[1].set(xlabel="step", ylabel="in the loss (%)", ylim=(0, None))
    if axes[0].lines:
        axes[0].legend(loc="lower right")
    return figure


def slopes(cells: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Accuracy against labels, a line for each method: the published (claims.cells) hollow, ours filled.

    Ours are means over the seeds that all methods share. Where the paper has our data set, both stand in one panel;
    else RAF-DB's published lines stand on the left, on an axis of their own.
    """
    means = comparison.shared(runs[runs.labels > 0]).groupby(["labels", "method"], as_index=False).accuracy.mean()
    ours, theirs = means.rename(columns={"accuracy": "value"}), cells[["dataset", "labels", "method", "name", "value"]]
    dataset = runs.dataset.iloc[0] if len(runs) else ""
    panels = {dataset: (theirs[theirs.dataset == dataset], ours)}
    if dataset not in set(theirs.dataset):
        panels = {"rafdb": (theirs[theirs.dataset == "rafdb"], ours[:0]), dataset: (theirs[:0], ours)}
    figure, axes = plt.subplots(1, len(panels), figsize=WIDE, squeeze=False)
    for ax, (name, (printed, run)) in zip(axes[0], panels.items()):
        for points, hollow in ((printed, True), (run, False)):
            for method in reversed(order(points.method)):
                _slope(ax, method, points[points.method == method], hollow)
        ticks = sorted({*printed.labels, *run.labels})
        ax.set_xscale("log")
        ax.set_xticks(ticks, ticks)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(*(ticks[0] / 1.25, ticks[-1] * 1.25) if ticks else (1, 10))
        names = dict(zip(printed.method, printed["name"])) if run.empty else {}
        _label(ax, run if len(run) else printed, names, hollow=run.empty)
        full = runs.accuracy[(runs.labels == 0) & (runs.repeat == 0)].mean()
        bound = f"; all of them: {full:.1f} %" if name == dataset and not np.isnan(full) else ""
        ax.set(xlabel=f"labels of {data_name(name)}{bound}")
        ax.annotate("" if ticks else "not run", (0.03, 0.03), xycoords="axes fraction", color=FAINT, style="italic")
    axes[0, 0].set_ylabel("accuracy (%)")
    marks = [_mark("o", True, "published"), _mark("o", False, "ours, mean over shared seeds")]
    figure.legend(handles=marks, loc="outside upper right", ncols=2, handletextpad=0.1, columnspacing=1.2)
    return figure


def balance(runs: pd.DataFrame) -> Figure:
    """Accuracy (marker; a small dot for each seed) and macro F1 (bar), one panel for each budget that was run."""
    runs = runs[(runs.labels > 0) & (runs.repeat == 0)]
    budgets, rows = sorted(set(runs.labels)) or [0], list(reversed(order(runs.method)))
    figure, axes = plt.subplots(1, len(budgets), figsize=WIDE, sharey=True, sharex=True, squeeze=False)
    for ax, budget in zip(axes[0], budgets):
        for y, row in enumerate(rows):
            done = runs[(runs.labels == budget) & (runs.method == row)].dropna(subset="accuracy")
            if done.empty:
                place = {"xycoords": ("axes fraction", "data"), "va": "center"}
                ax.annotate("not run", (0.02, y), color=FAINT, style="italic", **place)
                continue
            accuracy, f1, look = done.accuracy.mean(), done.macro_f1.mean(), colour(row)
            ax.plot([f1, accuracy], [y, y], color=look, lw=1.2, zorder=2)
            ax.plot(f1, y, "|", color=look, ms=9, mew=1.8, zorder=3)
            ax.plot(accuracy, y, marker(row), mfc=look, mec="white", ms=6, mew=0.6, zorder=4)
            ax.plot(done.accuracy, [y - 0.32] * len(done), ".", color=look, ms=4, mew=0, zorder=3)
        rules(ax, len(rows))
        ax.set(ylim=(-0.6, len(rows) - 0.4), xlabel=f"%, {budget:,} labels")
        aligns = [" *" if hasattr(METHODS.get(row.partition("/")[0]), "ALIGNS") else "" for row in rows]
        ax.set_yticks(range(len(rows)), [f"{title(row)}{star}" for row, star in zip(rows, aligns)])
        ax.locator_params(axis="x", nbins=5)
    marks = [_mark("o", False, "accuracy")]
    marks.append(plt.Line2D([], [], ls="", marker=".", color=INK, ms=4.5, mew=0, label="one seed"))
    marks.append(plt.Line2D([], [], ls="", marker="|", color=INK, ms=9, mew=1.8, label="macro F1"))
    marks.append(plt.Line2D([], [], ls="", label="* aligns its pseudo-labels"))
    figure.legend(handles=marks, loc="outside upper right", ncols=4, handletextpad=0.1, columnspacing=1.2)
    return figure


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1], each at least `gap` from the next and as near as that allows to where it was."""
    ranks, steps = np.argsort(np.argsort(places, kind="stable")), np.arange(len(places)) * gap
    room = max(0.0, 1 - (len(places) - 1) * gap)
    # Less what the labels below need, the places only have to ascend.
    flat = IsotonicRegression().fit_transform(steps, np.sort(places) - steps) if len(places) else np.empty(0)
    return (flat.clip(0, room) + steps)[ranks].tolist()


def _slope(ax: Axes, method: str, points: pd.DataFrame, hollow: bool) -> None:
    lead, look = method == "sitfer", colour(method)
    width = (0.7 if hollow else 1.1) + 0.7 * lead
    style = {"color": look, "lw": width, "ms": 4.5, "zorder": 4 if lead else 3, **_face(look, hollow)}
    ax.plot(points.labels, points.value, f"{marker(method)}-", **style)


def _label(ax: Axes, points: pd.DataFrame, names: Mapping[str, str], hollow: bool) -> None:
    """The methods' names on the right, each with its mark and a faint line to its last point."""
    ends = points.sort_values("labels").drop_duplicates("method", keep="last")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    gap = 8.6 / (72 * 0.8 * WIDE[1])  # a line of small print, as a share of the panel's height
    spots = apart(((ends.value - low) / (high - low)).tolist(), gap)
    for row, spot in zip(ends.itertuples(), spots):
        look, bold = colour(row.method), "bold" if row.method == "sitfer" else "normal"
        ax.plot(1.06, spot, marker(row.method), transform=ax.transAxes, clip_on=False, ms=4, **_face(look, hollow))
        ax.annotate(
            names.get(row.method, title(row.method)), (row.labels, row.value), (1.09, spot), va="center", fontsize=7,
            textcoords="axes fraction", weight=bold, arrowprops={
                "arrowstyle": "-", "color": "#d5d5d5", "lw": 0.5, "relpos": (0, 0.5), "shrinkA": 8, "shrinkB": 4,
            },
        )  # fmt: skip


def _mark(marker: str, hollow: bool, label: str) -> plt.Line2D:
    return plt.Line2D([], [], ls="", marker=marker, ms=5, label=label, **_face(INK, hollow))


def _face(colour: str, hollow: bool) -> dict:
    """A marker's filling and rim."""
    return {"mfc": "white", "mec": colour, "mew": 0.9} if hollow else {"mfc": colour, "mec": "white", "mew": 0.5}
