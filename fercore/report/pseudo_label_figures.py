"""Figures of the tidy table of pseudo-labels (analysis/pseudo_labels.py), a row of panels for each data set."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from fercore.analysis import pseudo_labels
from fercore.analysis.pseudo_labels import Shown
from fercore.report import figures
from fercore.report.figures import COLOURS, FAINT, INK, SIZE, nothing

SIDES = {"corrected": "#009E73", "corrupted": "#D55E00"}
COLUMNS, LINES = 6, 2  # faces of one page


def training(faces: pd.DataFrame) -> Figure:
    """Over the steps: how often each level is right, and how many faces the fusion corrects and corrupts (%)."""
    if faces.empty:
        return nothing()
    grounds = faces.groupby("data", sort=False)
    figure, rows = plt.subplots(len(grounds), 2, figsize=(6.4, 0.5 + 2.1 * len(grounds)), squeeze=False)
    for (left, right), (name, here) in zip(rows, grounds):
        said = pseudo_labels.by_level(here).groupby(["level", "step"], observed=True).right.mean()
        for level, line in said.groupby("level", observed=True):
            look = {"color": COLOURS.get(level, INK), "lw": 2.0 if level == "fused" else 1.3}
            left.plot(line.index.get_level_values("step"), line, "o-", ms=3, label=level, **look)
        share = 100 * here.groupby("step")[[*SIDES]].mean()
        at = np.arange(len(share))
        for kind, sign in (("corrected", 1), ("corrupted", -1)):
            right.bar(at, sign * share[kind], color=SIDES[kind], width=0.6, label=kind)
        right.plot(at, share.corrected - share.corrupted, "D", mfc="white", mec=INK, ms=4.5, mew=0.9, label="net")
        right.axhline(0, color=INK, lw=0.7)
        right.set_xticks(at, [f"{step}" for step in share.index])
        right.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        right.set_ylabel("of all faces (%)")
        left.set_ylabel(f"right (%)\n{name}")
        left.set_xticks(share.index)
    for ax in rows[-1]:
        ax.set_xlabel("step")
    small = {"fontsize": "x-small", "columnspacing": 0.8}
    rows[0, 0].legend(ncols=2, handlelength=1, **small)
    rows[0, 1].legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), **small)
    return figure


def credit(last: pd.DataFrame) -> Figure:
    """Faces corrected and corrupted at one look, by true class and by the levels that stand with the fusion."""
    if last.empty:
        return nothing()
    grounds = last.groupby("data", sort=False)
    figure, axes = plt.subplots(1, 2 * len(grounds), figsize=(3.4 * len(grounds) + 1.2, SIZE[1]))
    whose = [*dict.fromkeys(by for by in ("text", "instance", *last.backed_by) if by not in ("both", "none"))]
    for i, (name, here) in enumerate(grounds):
        counts = here.pivot_table([*SIDES], "true", "backed_by", "sum", fill_value=0, observed=True)
        for ax, kind in zip(axes[2 * i :], SIDES):
            part = counts[kind].reindex(columns=[*whose, "both", "none"], fill_value=0).astype(int)
            look = {"annot": True, "fmt": "d", "linewidths": 1, "cbar": False, "cmap": _shades(SIDES[kind])}
            sns.heatmap(part, ax=ax, vmin=0, vmax=max(1, counts.to_numpy().max()), **look)
            ax.set_title(f"{name}\n{kind}", fontsize="small", color=SIDES[kind])
            ax.set(xlabel="", ylabel="")
            ax.tick_params(length=0)
            ax.set_xticklabels(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
            ax.set_yticklabels(ax.get_yticklabels() if ax is axes[0] else [], rotation=0)
    return figure


def smoothing(last: pd.DataFrame) -> Figure:
    """Figure 3, counted: entropy of the fusion against the divergence of the levels; darker: more faces.

    The line is the mean of ten equal parts of the faces, the dashed one the mean entropy of the levels themselves: what
    lies between the two is what fusing adds.
    """
    if last.empty:
        return nothing()
    grounds = last.assign(part=pseudo_labels.parts(last)).groupby("data", sort=False)
    figure, axes = plt.subplots(1, len(grounds), sharey=True, squeeze=False)
    for ax, (name, here) in zip(axes[0], grounds):
        look = {"gridsize": 24, "bins": "log", "mincnt": 1, "linewidths": 0, "cmap": _shades(COLOURS["semantic"])}
        ax.hexbin(here.divergence, here.H_fused, **look).set_rasterized(True)
        mean = here.groupby("part")[["divergence", "H_levels", "H_fused"]].mean()
        ax.plot(mean.divergence, mean.H_fused, "o-", color=INK, ms=3.5, lw=1.6, label="fused")
        ax.plot(mean.divergence, mean.H_levels, "--", color=INK, lw=1.0, label="mean of levels")
        ax.axhline(np.log(len(here.true.cat.categories)), color=FAINT, lw=0.7, ls=":")
        ax.set(xlabel=f"divergence of the levels (nats)\n{name}")
    axes[0, 0].set_ylabel("entropy (nats)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def reliability(last: pd.DataFrame) -> Figure:
    """Of each level and the fusion: how often what it says with this confidence is right; dots grow with the faces."""
    if last.empty:
        return nothing()
    said = pseudo_labels.by_level(last)
    bins, errors = pseudo_labels.reliability(said), pseudo_labels.calibration_error(said)
    grounds, levels = (bins.index.unique(name) for name in ("data", "level"))
    shape = {"figsize": (1.75 * len(levels), 0.6 + 1.5 * len(grounds)), "sharex": True, "sharey": True}
    figure, axes = plt.subplots(len(grounds), len(levels), squeeze=False, **shape)
    for line, name in zip(axes, grounds):
        for ax, level in zip(line, levels):
            ax.plot([0, 100], [0, 100], color=FAINT, lw=0.8, zorder=1)
            ax.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", xticks=[0, 50, 100], yticks=[0, 50, 100])
            if (name, level) in errors:
                drawn, colour = bins.loc[name, level], COLOURS.get(level, INK)
                ax.plot(drawn.sure, drawn.right, color=colour, lw=1.0, zorder=2, clip_on=False)
                size = 6 + 90 * drawn.faces / drawn.faces.sum()
                ax.scatter(drawn.sure, drawn.right, s=size, color=colour, lw=0, zorder=3, clip_on=False)
                ax.annotate(f"ECE {errors[name, level]:.1f}", (97, 4), ha="right", fontsize="small", color=colour)
        line[0].set_ylabel(f"right (%)\n{name}")
    for ax, level in zip(axes[0], levels):
        ax.set_title(level, fontsize="small", color=COLOURS.get(level, INK), pad=4)
    for ax in axes[-1]:
        ax.set_xlabel("confidence (%)")
    return figure


def faces(shown: Shown | None) -> Figure:
    """Figure 5: corrected and corrupted faces, and under each what every level and the fusion say of it."""
    chosen = pseudo_labels.examples(shown)
    if chosen.empty:
        return nothing("the fusion corrects and corrupts no face" if shown else "not run")
    rows = chosen.index.tolist()
    levels = {name: p[rows] for name, p in pseudo_labels.look(shown.dump).items()}
    figure = figures.level_bars(shown.images[rows], levels, shown.dump.labels[rows], shown.dump.classes)
    for ax, right in zip(figure.axes, chosen.corrected):
        ax.title.set_color(SIDES["corrected" if right else "corrupted"])
    figure.legend(handles=_marks(), loc="outside upper right", ncols=2, handletextpad=0.1)
    return figure


def page(shown: Shown | None, rows: Iterable[int] | None = None, level: str = "fused", look: int = -1) -> Figure:
    """Two lines of faces with the bars of one level; by default those on which the levels disagree most.

    Above each face its true class, in the colour of what the fusion does to it; a mark points at the true class.
    """
    if shown is None:
        return nothing()
    said, p, classes = shown.look(look), pseudo_labels.look(shown.dump, look)[level].numpy(), shown.dump.classes
    chosen = said.sort_values("divergence", ascending=False).index if rows is None else rows
    figure, axes = plt.subplots(2 * LINES, COLUMNS, figsize=(5.6, 4.3), height_ratios=[1.7, 1] * LINES)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, row in enumerate(chosen[: COLUMNS * LINES]):
        above, below = axes[2 * (i // COLUMNS) :, i % COLUMNS][:2]
        face, label = said.loc[row], int(shown.dump.labels[row])
        for ax in (above, below):
            ax.set_axis_on()
        figures.picture(above, shown.images[row])
        colour = next((SIDES[kind] for kind in SIDES if face[kind]), INK)
        above.set_title(face.true, fontsize="small", pad=3, color=colour)
        figures.bars(below, p[row], COLOURS.get(level, INK), label)
        below.set_xticks(range(len(classes)), [name[:2] for name in classes], rotation=90, fontsize=6.5)
        below.tick_params(axis="x", length=0, pad=10)
        below.get_xticklabels()[label].set_fontweight("bold")
    title = f"bars: {level}, step {shown.dump.steps[look]:,}"
    figure.legend(handles=_marks(), title=title, loc="outside upper right", ncols=2, handletextpad=0.1)
    return figure


def _shades(colour: str) -> plt.Colormap:
    return sns.light_palette(colour, as_cmap=True)


def _marks() -> list[plt.Line2D]:
    return [plt.Line2D([], [], ls="", marker="s", color=colour, label=kind) for kind, colour in SIDES.items()]
