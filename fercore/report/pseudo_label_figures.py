"""Figures of dumps (pseudo_labels.py): one row of panels for each ground, in the style of figures.py."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fercore.analysis import pseudo_labels
from fercore.analysis.pseudo_labels import RESCUED, SPOILED, Shown
from fercore.report import figures
from fercore.report.figures import COLOURS, FAINT, INK, SIZE
from fercore.study.dumps import Dump

SIDES = {RESCUED: "#009E73", SPOILED: "#D55E00"}
COLUMNS, LINES = 6, 2  # faces of one page


def faces(shown: Shown | None) -> Figure:
    """Figure 5: rescued and spoiled faces, and under each what every level and the fusion say of it."""
    if shown is None:
        return _nothing()
    levels, truth, rows = pseudo_labels.look(shown.dump), shown.dump.labels, pseudo_labels.examples(shown)
    if not len(rows):
        return _nothing("the fusion rescues and spoils no face")
    images, said = shown.images[rows.numpy()], {name: p[rows] for name, p in levels.items()}
    figure = figures.level_bars(images, said, truth[rows], shown.dump.classes)
    rescued = pseudo_labels.outcome(levels, truth)[RESCUED][rows]
    for ax, right in zip(figure.axes, rescued):
        ax.title.set_color(SIDES[RESCUED if right else SPOILED])
    figure.legend(handles=_marks(), loc="outside upper right", ncols=2, handletextpad=0.1)
    return figure


def page(shown: Shown | None, rows: Tensor | None = None, level: str = "fused", look: int = -1) -> Figure:
    """Two lines of faces with the bars of one level; by default those on which the levels disagree most.

    Above each face its true class, in the colour of what the fusion does to it; a mark points at the true class.
    """
    if shown is None:
        return _nothing()
    levels, truth, classes = pseudo_labels.look(shown.dump, look), shown.dump.labels, shown.dump.classes
    if rows is None:
        rows = pseudo_labels.order(levels, torch.arange(len(truth)), "disagreement")
    outcome = pseudo_labels.outcome(levels, truth)
    figure, axes = plt.subplots(2 * LINES, COLUMNS, figsize=(5.6, 4.3), height_ratios=[1.7, 1] * LINES)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, row in enumerate(map(int, rows[: COLUMNS * LINES])):
        line, column = divmod(i, COLUMNS)
        label = int(truth[row])
        above, below = axes[2 * line, column], axes[2 * line + 1, column]
        for ax in (above, below):
            ax.set_axis_on()
        figures.picture(above, shown.images[row])
        kind = next((name for name, faces in outcome.items() if faces[row]), None)
        above.set_title(classes[label], fontsize="small", pad=3, color=SIDES.get(kind, INK))
        figures.bars(below, levels[level][row].numpy(), COLOURS.get(level, INK), label)
        below.set_xticks(range(len(classes)), [name[:2] for name in classes], rotation=90, fontsize=6.5)
        below.tick_params(axis="x", length=0, pad=10)
        below.get_xticklabels()[label].set_fontweight("bold")
    title = f"bars: {level}, step {shown.dump.steps[look]:,}"
    figure.legend(handles=_marks(), title=title, loc="outside upper right", ncols=2, handletextpad=0.1)
    return figure


def training(found: Sequence[Dump]) -> Figure:
    """Over the steps: how often each level is right, and how many faces the fusion rescues and spoils (%)."""
    figure, rows = _rows(found, 2)
    for axes, (name, runs) in zip(rows, pseudo_labels.grounds(found).items()):
        table = pseudo_labels.training_table(runs)
        for level in (*runs[0].names, "fused"):
            width = 2.0 if level == "fused" else 1.3
            axes[0].plot(table["step"], table[level], "o-", ms=3, lw=width, color=COLOURS.get(level, INK), label=level)
        counts = pseudo_labels.counts_table(runs).groupby("step")[["faces", RESCUED, SPOILED]].sum()
        share = 100 * counts.div(counts["faces"], axis=0)
        at = np.arange(len(share))
        for kind, sign in ((RESCUED, 1), (SPOILED, -1)):
            axes[1].bar(at, sign * share[kind], color=SIDES[kind], width=0.6, label=kind)
        axes[1].plot(at, share[RESCUED] - share[SPOILED], "D", mfc="white", mec=INK, ms=4.5, mew=0.9, label="net")
        axes[1].axhline(0, color=INK, lw=0.7)
        axes[1].set_xticks(at, [f"{step}" for step in share.index])
        axes[1].yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes[0].set(ylabel=f"right (%)\n{name}")
        axes[1].set(ylabel="of all faces (%)")
        axes[0].set_xticks(table["step"])
    if len(rows):
        for ax in rows[-1]:
            ax.set_xlabel("step")
        rows[0][0].legend(ncols=2, fontsize="x-small", columnspacing=0.8, handlelength=1)
        rows[0][1].legend(ncols=3, fontsize="x-small", columnspacing=0.8, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def smoothing(found: Sequence[Dump]) -> Figure:
    """Figure 3, counted: entropy of the fusion against the divergence of the levels; darker: more faces.

    The line is the mean of ten equal parts of the faces, the dashed one the mean entropy of the levels themselves: what
    lies between the two is what fusing adds.
    """
    names = list(pseudo_labels.grounds(found))
    if not names:
        return _nothing()
    figure, axes = plt.subplots(1, len(names), sharey=True, squeeze=False)
    for ax, (name, runs) in zip(axes[0], pseudo_labels.grounds(found).items()):
        values = pseudo_labels.disagreement(pseudo_labels.pooled(runs)[0])
        x, y = values["disagreement"].numpy(), values["H fused"].numpy()
        shades = sns.light_palette(COLOURS["semantic"], as_cmap=True)
        drawn = ax.hexbin(x, y, gridsize=24, bins="log", mincnt=1, cmap=shades, linewidths=0)
        drawn.set_rasterized(True)
        table = pseudo_labels.disagreement_table(runs)
        ax.plot(table["disagreement"], table["H fused"], "o-", color=INK, ms=3.5, lw=1.6, label="fused")
        ax.plot(table["disagreement"], table["H alone"], "--", color=INK, lw=1.0, label="mean of levels")
        ax.axhline(np.log(len(runs[0].classes)), color=FAINT, lw=0.7, ls=":")
        ax.set(xlabel=f"divergence of the levels (nats)\n{name}")
    axes[0, 0].set_ylabel("entropy (nats)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def reliability(found: Sequence[Dump]) -> Figure:
    """Of each level and the fusion: how often what it says with this confidence is right; dots grow with the faces."""
    grounds = pseudo_labels.grounds(found)
    if not grounds:
        return _nothing()
    names = [*max((runs[0].names for runs in grounds.values()), key=len), "fused"]
    shape = {"figsize": (1.75 * len(names), 0.6 + 1.5 * len(grounds)), "sharex": True, "sharey": True}
    figure, axes = plt.subplots(len(grounds), len(names), squeeze=False, **shape)
    errors = pseudo_labels.reliability_table(found).set_index(["data", "level"])["ECE"]
    for line, (name, runs) in zip(axes, grounds.items()):
        levels, truth = pseudo_labels.pooled(runs)
        for ax, level in zip(line, names):
            ax.plot([0, 100], [0, 100], color=FAINT, lw=0.8, zorder=1)
            ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xticks=[0, 50, 100], yticks=[0, 50, 100])
            if level not in levels:
                continue
            frame = pseudo_labels.bins(levels[level], truth).dropna()
            size = 6 + 90 * frame["faces"] / len(truth)
            ax.plot(frame["said"], frame["right"], color=COLOURS[level], lw=1.0, zorder=2, clip_on=False)
            ax.scatter(frame["said"], frame["right"], s=size, color=COLOURS[level], lw=0, zorder=3, clip_on=False)
            ax.annotate(f"ECE {errors[name, level]:.1f}", (4, 96), va="top", fontsize="small", color=COLOURS[level])
        line[0].set_ylabel(f"right (%)\n{name}")
    for ax, level in zip(axes[0], names):
        ax.set_title(level, fontsize="small", color=COLOURS[level], pad=4)
    for ax in axes[-1]:
        ax.set_xlabel("confidence (%)")
    return figure


def credit(found: Sequence[Dump]) -> Figure:
    """Which level rescues or spoils which class: faces by true class and by who stands with the fusion."""
    grounds = pseudo_labels.grounds(found)
    if not grounds:
        return _nothing()
    figure, axes = plt.subplots(1, 2 * len(grounds), figsize=(3.4 * len(grounds) + 1.2, SIZE[1]), squeeze=False)
    for i, (name, runs) in enumerate(grounds.items()):
        table = pseudo_labels.credit_table(runs).set_index("class").drop(columns="data")
        most = max(1, table.to_numpy().max())
        for ax, kind in zip(axes[0, 2 * i :], (RESCUED, SPOILED)):
            part = table[[c for c in table if c.startswith(kind)]].rename(columns=lambda c: c.split("\n")[1])
            shades = sns.light_palette(SIDES[kind], as_cmap=True)
            sns.heatmap(part, ax=ax, annot=True, fmt="d", cmap=shades, vmin=0, vmax=most, linewidths=1, cbar=False)
            ax.set_title(f"{name}\n{kind}", fontsize="small", color=SIDES[kind])
            ax.set(xlabel="", ylabel="")
            ax.tick_params(length=0)
            ax.set_xticklabels(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
            ax.set_yticklabels(ax.get_yticklabels() if ax is axes[0, 0] else [], rotation=0)
    return figure


def _rows(found: Sequence[Dump], columns: int) -> tuple[Figure, np.ndarray | Sequence[Axes]]:
    """One row of panels for each ground."""
    n = len(pseudo_labels.grounds(found))
    if not n:
        return _nothing(), []
    return plt.subplots(n, columns, figsize=(6.4, 0.5 + 2.1 * n), squeeze=False)


def _marks() -> list[plt.Line2D]:
    return [plt.Line2D([], [], ls="", marker="s", color=colour, label=kind) for kind, colour in SIDES.items()]


def _nothing(said: str = "not run") -> Figure:
    figure, ax = plt.subplots(figsize=(SIZE[0], 0.8))
    ax.set_axis_off()
    ax.annotate(said, (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT, style="italic")
    return figure
