"""Figures of prompts and encoders: what they are worth, and how far apart their vectors are."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from fercore.analysis import ablations, prompts
from fercore.analysis.ablations import Setting
from fercore.config import Run
from fercore.report.figures import COLOURS, FAINT, INK
from fercore.text import CONTROLS

WIDE = 7.4  # inches
REAL, WRONG, EMPTY = COLOURS["text"], "#D55E00", COLOURS["supervised"]  # words, under wrong classes, no words


def encoders(found: Sequence[Setting]) -> Figure:
    """A line for each encoder and prompt, the first budget: accuracy, text level right, unlabelled faces kept.

    A dot is a seed, a bar a mean; the dotted line is the base. Accuracy is the difference from the base, paired by
    seed; the base's own dots are its seeds around their mean.
    """
    here = [s for s in found if s.labels == found[0].labels]
    figure, axes = plt.subplots(1, 3, figsize=(WIDE, 1.0 + 0.27 * len(here)), sharey=True, width_ratios=(1.5, 1, 1))
    base = next(s for s in here if s.chosen and s.value)
    panels: list[tuple[str, Callable[[Setting], list[float]]]] = [
        (f"accuracy over {base.axis} {ablations.shown(base.value)} (points)", _over),
        ("text level right (%)", lambda s: [ablations.tail([r], "level_accuracy", "text") for r in s.done]),
        ("kept (%)", lambda s: [ablations.tail([r], "kept") for r in s.done]),
    ]
    rows = list(reversed(here))
    for ax, (label, of) in zip(axes, panels):
        for y, s in enumerate(rows):
            values, colour = of(s), _colour(s.axis)
            spots = y + (np.linspace(-0.17, 0.17, len(values)) if len(values) > 1 else np.zeros(len(values)))
            ax.plot(values, spots, "o", mfc=colour, mec="white", ms=4.5, mew=0.5, zorder=4)
            if values:
                ax.plot([np.mean(values)] * 2, [y - 0.34, y + 0.34], color=colour, lw=1.8, solid_capstyle="butt")
                if s is base:
                    ax.axvline(np.mean(values), color=INK, lw=0.7, ls=":", zorder=0)
        for y in _between(rows):
            ax.axhline(y, color="#dddddd", lw=0.7, zorder=0)
        ax.margins(x=0.12)
        ax.set(xlabel=label, ylim=(-0.6, len(rows) - 0.4))
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=5)
        if not any(s.done for s in rows):
            ax.set(xticks=[])
    for y, s in enumerate(rows):
        note = "" if s.done else "failed" if s.failed else "not run"
        place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 7.5}
        axes[0].annotate(note, (0.02, y), color=FAINT, style="italic", **place)
    axes[0].set_yticks(range(len(rows)), [f"{s.axis}  {ablations.shown(s.value)}".strip() for s in rows])
    return figure


def _over(s: Setting) -> list[float]:
    if not s.chosen:
        return list(s.difference().values())
    own = ablations.measures(s)
    return [x - np.mean(own) for x in own]


def cosines(found: Sequence[Setting]) -> Figure:
    """100 times the cosine of every two classes, a panel for each encoder with the profile's prompt."""
    classes, tables = prompts.names(found), prompts.vectors(found)
    shown = {axis: vectors for (axis, prompt), vectors in tables.items() if prompt in ("", Run.prompt)}
    columns = 4
    lines, same = -(-len(shown) // columns), {"squeeze": False, "sharex": True, "sharey": True}
    figure, axes = plt.subplots(lines, columns, figsize=(WIDE, 2.05 * lines + 0.3), **same)
    colours = sns.light_palette(COLOURS["semantic"], as_cmap=True)
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    for ax, (encoder, vectors) in zip(axes.flat, shown.items()):
        ax.set_title(encoder, fontsize=7, pad=4)
        ax.set_xticks(range(len(classes)), [name[:2] for name in classes], fontsize=6.5)
        ax.set_yticks(range(len(classes)), [name[:2] for name in classes], fontsize=6.5)
        ax.tick_params(length=0, labelbottom=True)
        for spine in ax.spines.values():
            spine.set_visible(False)
        if vectors is None:
            blank = np.zeros((len(classes), len(classes)))
            ax.imshow(blank, cmap=colours, vmin=0, vmax=1, alpha=0)
            ax.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT, style="italic")
            continue
        between = prompts.cosines(vectors).numpy()
        ax.imshow(between, cmap=colours, vmin=0, vmax=1)
        for (i, j), cosine in np.ndenumerate(between):
            ink = "white" if cosine > 0.6 else INK
            ax.text(j, i, f"{abs(round(100 * cosine)) if abs(cosine) < 0.005 else round(100 * cosine)}", color=ink,
                    ha="center", va="center", fontsize=5.5)  # fmt: skip
    return figure


def _colour(encoder: str) -> str:
    return WRONG if encoder.startswith("shuffled:") else EMPTY if encoder in CONTROLS else REAL


def _between(rows: Sequence[Setting]) -> list[float]:
    """Where one encoder ends and the next begins."""
    return [y + 0.5 for y, (a, b) in enumerate(pairwise(rows)) if a.axis != b.axis]
