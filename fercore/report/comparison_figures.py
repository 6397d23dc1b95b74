"""Figures of Table I. One look (colour and marker) per method, in every figure; style and saving are in figures.py.

Fourteen methods are more than Okabe and Ito have colours: a colour stands for a family, the marker for its member.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from fercore.analysis import claims as published
from fercore.analysis import comparison, tables
from fercore.analysis.comparison import FULL, NAMES, ROWS
from fercore.report.figures import COLOURS, FAINT, INK, line

WIDE = (7.4, 4.0)  # inches
LOOKS = {
    "supervised": (COLOURS["supervised"], "o"),
    "fullysupervised": (COLOURS["supervised"], "D"),
    "pseudolabel": ("#56B4E9", "o"),
    "uda": ("#56B4E9", "s"),
    "mixmatch": ("#009E73", "o"),  # mixed images
    "remixmatch": ("#009E73", "s"),
    "marginmix": ("#009E73", "^"),
    "fixmatch": (COLOURS["fixmatch"], "o"),  # a threshold, and its successors
    "flexmatch": (COLOURS["fixmatch"], "s"),
    "freematch": (COLOURS["fixmatch"], "^"),
    "adacm": ("#E69F00", "o"),  # made for faces
    "lion": ("#E69F00", "s"),
    "simmatch": ("#0072B2", "o"),  # a memory of instances
    "sitfer": (INK, "o"),
}


def learning(records: Sequence[Mapping], rows: Sequence[tables.Row] = ROWS) -> Figure:
    """Test accuracy (%) over the steps, and the share of unlabelled faces in the loss; mean and range of the seeds.

    A reader's own row is drawn wider, in a colour of its own.
    """
    figure, axes = plt.subplots(1, 2, figsize=WIDE, width_ratios=(1.4, 1))
    for row in rows:
        done, own = tables.ran(records, row.method), row.method not in LOOKS
        look = ("#D55E00" if own else LOOKS[row.method][0], row.name, 2.2 if own else 1.2)
        line(axes[0], done, lambda entry: entry["classifier"]["accuracy"], *look)
        line(axes[1], done, lambda entry: entry.get("kept"), *look)
    axes[0].set(xlabel="step", ylabel="test accuracy (%)")
    axes[1].set(xlabel="step", ylabel="in the loss (%)", ylim=(0, None))
    if axes[0].lines:
        axes[0].legend(loc="lower right")
    return figure


def slopes(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> Figure:
    """Accuracy against labels, one line for each method: published hollow, ours filled.

    Ours are means over the seeds that all methods share. Where the paper has our data set, both stand in one panel;
    else RAF-DB's published lines stand on the left.
    """
    cells = [c for c in published.load() if c.id.startswith(f"{comparison.TABLE} ")]
    known, sets = {c.dataset for c in cells}, comparison.datasets(records)
    panels = sets if sets and set(sets) <= known else ["rafdb", *(name for name in sets if name != "rafdb")]
    figure, axes = plt.subplots(1, len(panels), figsize=WIDE, squeeze=False)
    for ax, dataset in zip(axes[0], panels):
        budgets = [budget for name, budget in comparison.grounds(records, labels) if name == dataset]
        means = {budget: comparison.means(records, dataset, budget) for budget in budgets}
        theirs, ours, says = {}, {}, {}
        for row in ROWS:
            printed = [c for c in cells if c.row == row.method and c.dataset == dataset]
            theirs[row.method] = [(c.labels, c.value) for c in printed]
            says[row.method] = printed[0].says if printed else row.name
            ours[row.method] = [(budget, ran[row.method]) for budget, ran in means.items() if row.method in ran]
        for method in reversed(NAMES):
            _slope(ax, method, theirs[method], hollow=True)
            _slope(ax, method, ours[method], hollow=False)
        shown, names = (ours, NAMES) if any(ours.values()) else (theirs, says)
        _label(ax, {method: (names[method], *line[-1]) for method, line in shown.items() if line})
        ticks = sorted({x for line in (*theirs.values(), *ours.values()) for x, _ in line})
        ax.set_xscale("log")
        ax.set_xticks(ticks, ticks)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(*(ticks[0] / 1.25, ticks[-1] * 1.25) if ticks else (1, 10))
        full = [published.measure(r) for r in tables.ran(comparison.here(records, dataset), FULL.method)]
        bound = f"; all of them: {np.mean(full):.1f} %" if full else ""
        ax.set(xlabel=f"labels of {tables.data_name(dataset)}{bound}")
        ax.annotate("" if ticks else "not run", (0.03, 0.03), xycoords="axes fraction", color=FAINT, style="italic")
    axes[0, 0].set_ylabel("accuracy (%)")
    marks = [_mark("o", True, "published"), _mark("o", False, "ours, mean over shared seeds")]
    figure.legend(handles=marks, loc="outside upper right", ncols=2, handletextpad=0.1, columnspacing=1.2)
    return figure


def balance(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> Figure:
    """Accuracy (marker; a small dot for each seed) and macro F1 (bar), one panel for each budget that was run."""
    asked = comparison.grounds(records, labels)
    grounds = [(d, b) for d, b in asked if comparison.means(records, d, b)] or asked[-1:] or [("", 0)]
    figure, axes = plt.subplots(1, len(grounds), figsize=WIDE, sharey=True, sharex=True, squeeze=False)
    rows = list(reversed(ROWS))
    for ax, (dataset, budget) in zip(axes[0], grounds):
        for y, row in enumerate(rows):
            colour, marker = LOOKS[row.method]
            done = tables.ran(comparison.here(records, dataset), row.method, budget)
            if not done:
                place = {"xycoords": ("axes fraction", "data"), "va": "center"}
                ax.annotate("not run", (0.02, y), color=FAINT, style="italic", **place)
                continue
            accuracy, f1 = ([published.measure(r, metric) for r in done] for metric in ("accuracy", "macro_f1"))
            ax.plot([np.mean(f1), np.mean(accuracy)], [y, y], color=colour, lw=1.2, zorder=2)
            ax.plot(np.mean(f1), y, "|", color=colour, ms=9, mew=1.8, zorder=3)
            ax.plot(np.mean(accuracy), y, marker, mfc=colour, mec="white", ms=6, mew=0.6, zorder=4)
            ax.plot(accuracy, [y - 0.32] * len(accuracy), ".", color=colour, ms=4, mew=0, zorder=3)
        for y in np.arange(len(rows) - 1) + 0.5:
            ax.axhline(y, color="#eeeeee", lw=0.6, zorder=0)
        ax.set(ylim=(-0.6, len(rows) - 0.4), xlabel=f"%, {budget:,} labels of {tables.data_name(dataset)}")
        ax.set_yticks(range(len(rows)), [row.name + (" *" if row.method in comparison.ALIGNS else "") for row in rows])
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=5)
    marks = [_mark("o", False, "accuracy")]
    marks.append(plt.Line2D([], [], ls="", marker=".", color=INK, ms=4.5, mew=0, label="one seed"))
    marks.append(plt.Line2D([], [], ls="", marker="|", color=INK, ms=9, mew=1.8, label="macro F1"))
    marks.append(plt.Line2D([], [], ls="", label="* aligns its pseudo-labels"))
    figure.legend(handles=marks, loc="outside upper right", ncols=4, handletextpad=0.1, columnspacing=1.2)
    return figure


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1], each at least `gap` from the next and as near as that allows to where it was.

    Isotonic regression by pooling: neighbours that would collide share the shift that suits them all.
    """
    order = np.argsort(places, kind="stable")
    pools: list[list[float]] = []  # of places less what the labels below need
    for i, place in enumerate(np.asarray(places, float)[order]):
        pools.append([place - i * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    flat = np.concatenate([[np.mean(pool)] * len(pool) for pool in pools]) if pools else np.empty(0)
    room = max(0.0, 1 - (len(places) - 1) * gap)
    out = np.empty(len(places))
    out[order] = flat.clip(0, room) + np.arange(len(places)) * gap
    return out.tolist()


def _slope(ax: Axes, method: str, points: Sequence[tuple[int, float]], hollow: bool) -> None:
    colour, marker = LOOKS[method]
    lead = method == comparison.REFERENCE
    x, y = zip(*points) if points else ((), ())
    width = (0.7 if hollow else 1.1) + 0.7 * lead
    ax.plot(x, y, f"{marker}-", color=colour, lw=width, ms=4.5, zorder=4 if lead else 3, **_face(colour, hollow))


def _label(ax: Axes, ends: Mapping[str, tuple[str, int, float]]) -> None:
    """The methods' names on the right, each joined to the last point (x, y) of its line."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    gap = 8.6 / (72 * 0.8 * WIDE[1])  # a line of small print, as a share of the panel's height
    spots = apart([(y - low) / (high - low) for _, _, y in ends.values()], gap)
    for (method, (name, x, y)), spot in zip(ends.items(), spots):
        ax.annotate(
            name, (x, y), (1.05, spot), textcoords="axes fraction", va="center", fontsize=7,
            arrowprops={"arrowstyle": "-", "color": LOOKS[method][0], "lw": 0.5, "relpos": (0, 0.5), "shrinkB": 3},
            weight="bold" if method == comparison.REFERENCE else "normal",
        )  # fmt: skip


def _mark(marker: str, hollow: bool, label: str) -> plt.Line2D:
    return plt.Line2D([], [], ls="", marker=marker, ms=5, label=label, **_face(INK, hollow))


def _face(colour: str, hollow: bool) -> dict:
    """A marker's filling and rim."""
    return {"mfc": "white", "mec": colour, "mew": 0.9} if hollow else {"mfc": colour, "mec": "white", "mew": 0.5}
