"""Figures of records: one style, one colour per row and level, no title inside (the caption is the text above).

Colours are Okabe and Ito's, told apart by colour-blind readers; SIT-FER and the fused level are the dark ones.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fercore.analysis import claims as published
from fercore.analysis import tables
from fercore.report import inline

SIZE = (5.5, 3.4)  # inches
INK, FAINT = "#222222", "#9a9a9a"
BAND = "#eeeeee"  # behind everything: what a difference must leave to mean something
COLOURS = {
    "supervised": "#8c8c8c",
    "fixmatch": "#CC79A7",
    "sitfer/semantic": "#0072B2",
    "sitfer/text": "#009E73",
    "sitfer/instance": "#E69F00",
    "sitfer": INK,
    "semantic": "#0072B2",
    "text": "#009E73",
    "instance": "#E69F00",
    "fused": INK,
}
STATES = {"reproduced": "#009E73", "partly": "#E69F00", "not reproduced": "#D55E00"}
MARKERS = {"rafdb/100": "D", "sfew/400": "s"}  # of the published values


def style() -> None:
    """The one style. Inline figures are 100 dpi and have a palette, saved ones 200."""
    inline.register()
    sns.set_theme(context="paper", style="ticks", font="DejaVu Sans", font_scale=0.95)
    plt.rcParams.update(
        {
            "figure.figsize": SIZE,
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.linewidth": 0.7,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "xtick.major.size": 3,
            "ytick.major.size": 3,
            "legend.frameon": False,
            "legend.handlelength": 1.4,
        }
    )


def save(figure: Figure, folder: Path, stem: str) -> None:
    """Write <stem>.png atomically, 200 dpi; the same figure gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{stem}.{os.getpid()}.tmp"
    try:
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})
        path = folder / f"{stem}.png"
        if not path.exists() or path.read_bytes() != temporary.read_bytes():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def table2(records: Sequence[Mapping], labels: Sequence[int] | int | None = None) -> Figure:
    """Table II, one panel per budget that was run: a dot for each seed, a bar at the mean, published marks hollow."""
    asked = tables.budgets(records, labels) or [0]
    budgets = [b for b in asked if tables.runs(records, labels=b)] or asked[-1:]
    figure, axes = plt.subplots(1, len(budgets), sharey=True, sharex=True, squeeze=False)
    rows = list(reversed(tables.ROWS))
    for ax, budget in zip(axes[0], budgets):
        for column, marker in MARKERS.items():
            cells = [published.published(row.table, row.method, column).value for row in rows]
            ax.plot(
                cells,
                range(len(rows)),
                f"{marker}-",
                color="#dddddd",
                lw=0.8,
                mfc="white",
                mec=FAINT,
                ms=4.5,
                mew=0.9,
                zorder=2,
            )
        for y, row in enumerate(rows):
            colour = COLOURS[row.method]
            values = [published.measure(r) for r in tables.ran(records, row.method, budget)]
            # Seeds are spread out a little, always the same way, so that equal results stay visible.
            ax.plot(values, y + spread_out(len(values)), "o", mfc=colour, mec="white", ms=5.5, mew=0.6, zorder=4)
            if values:
                ax.plot(
                    [np.mean(values)] * 2, [y - 0.36, y + 0.36], color=colour, lw=2, solid_capstyle="butt", zorder=3
                )
            missing = len(tables.runs(records, row.method, budget)) - len(values)
            note = f"{missing} failed" if missing else "" if values else "not run"
            ax.annotate(note, (0.01, y), xycoords=("axes fraction", "data"), va="center", color=FAINT, style="italic")
        for y in np.arange(len(rows) - 1) + 0.5:
            ax.axhline(y, color="#eeeeee", lw=0.6, zorder=0)
        ax.margins(x=0.1)
        ax.set(ylim=(-0.55, len(rows) - 0.45), xlabel=f"accuracy (%), {budget:,} labels")
        ax.set_yticks(range(len(rows)), [_name(row) for row in rows])
        ax.tick_params(axis="y", length=0)
    marks = [plt.Line2D([], [], ls="", marker="o", mfc=INK, mec="white", ms=6, label="one seed, bar: mean")]
    for column, marker in MARKERS.items():
        name = f"published, {tables.COLUMNS[column]}"
        marks.append(plt.Line2D([], [], ls="", marker=marker, mfc="white", mec=FAINT, ms=4.5, label=name))
    figure.legend(handles=marks, loc="outside upper right", ncols=3, handletextpad=0.1, columnspacing=1.2)
    return figure


def curves(records: Sequence[Mapping], labels: int | None = None) -> Figure:
    """One budget over the steps: accuracy, kept share, and how often each level of SIT-FER is right.

    Lines are means over seeds, bands reach from the lowest to the highest seed.
    """
    budget = max(tables.budgets(records, labels), default=0)
    figure, axes = plt.subplot_mosaic([["accuracy", "kept"], ["accuracy", "levels"]], width_ratios=[1.25, 1])
    rows = [(row, tables.ran(records, row.method, budget)) for row in tables.ROWS]
    for row, done in rows:
        pick = COLOURS[row.method], _name(row)
        line(
            axes["accuracy"],
            done,
            lambda h: h["classifier"]["accuracy"],
            *pick,
            width=2.0 if row.method == "sitfer" else 1.3,
        )
        line(axes["kept"], done, lambda h: h.get("kept"), *pick, width=1.6 if row.method == "sitfer" else 1.0)
    sitfer = tables.ran(records, "sitfer", budget)
    for level in tables.LEVELS:
        right = functools.partial(_level, level)
        line(axes["levels"], sitfer, right, COLOURS[level], level)
    axes["accuracy"].set(xlabel="step", ylabel=f"test accuracy (%), {budget:,} labels")
    axes["kept"].set(ylabel="kept (%)")
    axes["kept"].set_ylim(bottom=0)
    axes["kept"].tick_params(labelbottom=False)
    axes["levels"].set(xlabel="step", ylabel="level right (%)")
    for ax in axes.values():
        ax.ticklabel_format(axis="x", style="plain")
        ax.locator_params(axis="x", nbins=4)
        ax.locator_params(axis="y", nbins=5)
    handles = axes["accuracy"].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=3, columnspacing=1.2)
    if sitfer:
        axes["levels"].legend(ncols=2, fontsize="x-small", columnspacing=0.8, handlelength=1, loc="best")
    return figure


def recall(
    records: Sequence[Mapping],
    labels: Sequence[int] | int | None = None,
    rows: Sequence[tables.Row] = tables.ROWS,
) -> Figure:
    """Recall of each class (%), one line for each row of the table; last evaluation, mean over seeds."""
    budget = max(tables.budgets(records, labels), default=0)
    table = tables.recall_table(records, budget, rows)
    figure, ax = plt.subplots(figsize=(SIZE[0], max(SIZE[1], 1.1 + 0.25 * len(table))))
    if table.empty:
        return _nothing(figure, ax)
    table = table.drop(columns="labels").set_index("row").rename(index=lambda name: name.replace("L_t", "$L_t$"))
    bar = {"label": f"recall (%), {budget:,} labels", "pad": 0.02, "ticks": [0, 25, 50, 75, 100]}
    sns.heatmap(
        table,
        ax=ax,
        annot=True,
        fmt=".0f",
        cmap=sns.light_palette("#0072B2", as_cmap=True),
        vmin=0,
        vmax=100,
        linewidths=1,
        cbar_kws=bar,
    )
    ax.set(xlabel="", ylabel="")
    ax.tick_params(length=0)
    ax.set_xticklabels(ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(ax.get_yticklabels(), rotation=0)
    figure.axes[1].tick_params(length=0)
    figure.axes[1].spines["outline"].set_visible(False)
    return figure


def gains(claims: Sequence[published.Claim], records: Sequence[Mapping]) -> Figure:
    """Statements of the kind "b is above a": published gains hollow, ours filled with what the rule needs as a bar."""
    tested = [(claim, published.compare(claim, records)) for claim in claims if claim.reproduced_by]
    tested = [(c, found) for c, found in tested if c.kind == "direction" and c.reproduced_by.order]
    tested = [(c, found) for c, found in tested if len({(f.above, f.below) for f in found}) <= 1]
    figure, ax = plt.subplots()
    for y, (claim, found) in enumerate(reversed(tested)):
        ax.plot([p for _, p in claim.gains], [y] * len(claim.gains), "D", mfc="white", mec=FAINT, ms=4, mew=0.9)
        for k, f in enumerate(found):
            at = y + (k - (len(found) - 1) / 2) * 0.28
            bar = {"xerr": f.needed} if f.needed is not None else {}
            ax.errorbar(f.gain, at, fmt="o", ms=5, color=STATES[f.state], mec="white", mew=0.6, elinewidth=1.4, **bar)
    ax.axvline(0, color=INK, lw=0.7)
    ax.set(xlabel="gain in accuracy (points); right of 0 as the paper says", ylim=(-0.6, len(tested) - 0.4))
    ax.set_yticks(range(len(tested)), [_versus(c) for c, _ in reversed(tested)])
    ax.tick_params(axis="y", length=0)
    marks = [plt.Line2D([], [], ls="", marker="D", mfc="white", mec=FAINT, ms=4, label="published")]
    for state, colour in STATES.items():
        marks.append(plt.Line2D([], [], ls="", marker="o", mfc=colour, mec="white", ms=6, label=f"ours: {state}"))
    figure.legend(handles=marks, loc="outside upper right", ncols=4, handletextpad=0.1, columnspacing=1)
    return figure


def views(pictures: Mapping[str, UInt8[np.ndarray, "m h w c"]], titles: Sequence[str]) -> Figure:
    """Faces in columns, one line for each kind of picture (the face, its weak view, its strong view)."""
    m = len(titles)
    figure, axes = plt.subplots(len(pictures), m, figsize=(0.85 * m, 0.92 * len(pictures)), squeeze=False)
    for line, (kind, images) in zip(axes, pictures.items()):
        for ax, image in zip(line, images):
            picture(ax, image)
        line[0].set_ylabel(kind, rotation=0, ha="right", va="center")
    for ax, title in zip(axes[0], titles):
        ax.set_title(title, fontsize="small", pad=3)
    return figure


def level_bars(
    images: UInt8[np.ndarray, "m h w c"], levels: Mapping[str, Tensor], truth: Tensor, classes: Sequence[str]
) -> Figure:
    """Under each face the probabilities that the levels [m, k] give to the classes; a mark points at the true one."""
    m, k = next(iter(levels.values())).shape
    size, heights = (m, 1.0 + 0.66 * len(levels)), [1.7] + [1] * len(levels)
    figure, axes = plt.subplots(1 + len(levels), m, figsize=size, height_ratios=heights, squeeze=False)
    for i, label in enumerate(truth.tolist()):
        picture(axes[0, i], images[i])
        axes[0, i].set_title(classes[label], fontsize="small", pad=3)
        for ax, (level, p) in zip(axes[1:, i], levels.items()):
            bars(ax, p[i].cpu().numpy(), COLOURS[level], label)
        axes[-1, i].set_xticks(range(k), [name[:2] for name in classes], rotation=90, fontsize=6.5)
        axes[-1, i].tick_params(axis="x", length=0, pad=8)
        axes[-1, i].get_xticklabels()[label].set_fontweight("bold")
    for ax, level in zip(axes[1:, 0], levels):
        ax.set_ylabel(level, rotation=0, ha="right", va="center", color=COLOURS[level])
    return figure


def picture(ax: Axes, image: np.ndarray) -> None:
    ax.imshow(image.squeeze(), cmap="gray", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def bars(ax: Axes, p: np.ndarray, colour: str, truth: int) -> None:
    """One level of one face: the largest class in full colour, its probability written above it."""
    top = int(p.argmax())
    ax.bar(range(len(p)), p, color=[colour if c == top else f"{colour}66" for c in range(len(p))], width=0.8)
    ax.annotate(f"{100 * p[top]:.0f}", (top, p[top]), ha="center", va="bottom", fontsize=6.5, color=colour)
    ax.plot(truth, -0.09, marker="^", ms=3, color=INK, clip_on=False)
    ax.set(ylim=(0, 1.2), xlim=(-0.6, len(p) - 0.4), xticks=[], yticks=[])
    ax.spines["left"].set_visible(False)


def _level(level: str, entry: Mapping) -> float | None:
    return entry.get("level_accuracy", {}).get(level)


def line(ax: Axes, done: Sequence[Mapping], value, colour: str, label: str, width: float = 1.3) -> None:
    """Mean over seeds of a number of the history, in percent, with the range of the seeds."""
    curves = [{h["step"]: 100 * value(h) for h in r["history"] if value(h) is not None} for r in done]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    if not steps:
        return
    values = np.array([[curve[step] for step in steps] for curve in curves])
    ax.plot(steps, values.mean(0), color=colour, lw=width, label=label)
    if len(values) > 1:
        ax.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)


def _versus(claim: published.Claim) -> str:
    """What a statement compares, e.g. "SIT-FER over FixMatch"; between the rows of Table II what each adds."""
    rule = claim.reproduced_by
    if rule.levels:
        return f"{rule.levels[-1]} pseudo-labels over {rule.levels[0]}"
    pair = [published.name(row) for row in (rule.order[-1], rule.order[0])]
    inside = all(method.startswith("sitfer") for method in pair)
    added = {row.method: _name(row).removesuffix(" = SIT-FER") for row in tables.ROWS if inside}
    return " over ".join(added.get(method) or tables.row_name(method) for method in pair)


def _name(row: tables.Row) -> str:
    return row.name.replace("L_t", "$L_t$")


def spread_out(n: int) -> np.ndarray:
    """Small shifts, always the same, that keep equal seeds visible."""
    return np.linspace(-0.17, 0.17, n) if n > 1 else np.zeros(n)


def _nothing(figure: Figure, ax: Axes) -> Figure:
    ax.set_axis_off()
    ax.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT, style="italic")
    return figure
