"""Figures of the audit: the ladder between the paper and the released code, and coverage around the switch."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fercore.analysis import claims as published
from fercore.analysis import discrepancies, ladder
from fercore.analysis.ladder import CODE, DOWN, PAPER, UP, Rung
from fercore.methods import audit
from fercore.report import figures
from fercore.report.figures import BAND, FAINT, INK
from fercore.study import records as store
from fercore.study.profiles import Profile

ENDS = {PAPER: INK, CODE: "#D55E00"}
COLOURS = {UP: "#0072B2", DOWN: "#E69F00"}


def rungs(records: Sequence[Mapping], study: Profile, noise: float = 0.0) -> Figure:
    """The ladder at the largest budget: left from the paper, right from the code, one point at a time.

    Points over the end that a panel starts from, paired by seed: a dot for each seed, a thick bar at their mean, a
    thin one over one standard deviation to either side. The end itself: its seeds around their mean. The dashed line
    is where the other end lies. `noise`: points by which a run moves when it is made again, a grey band.
    """
    labels = ladder.budgets(study)[-1]
    paper, code, *others = ladder.rungs(study, labels)
    apart = ladder.differences(records, code)
    panels = {  # the end that a panel starts from, its rungs, and the other end over this one
        UP: (paper, [r for r in others if r.side == UP], apart),
        DOWN: (code, [r for r in others if r.side == DOWN], [-d for d in apart]),
    }
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 1.5 + 0.235 * (1 + len(panels[UP][1]))))
    for ax, (side, (end, chosen, across)) in zip(axes, panels.items()):
        colour, other = ENDS[end.side], ENDS[{PAPER: CODE, CODE: PAPER}[end.side]]
        for line, values in ((colour, [0.0]), (other, across)):
            if values:
                ax.axvline(np.mean(values), color=line, lw=0.9, ls=(0, (4, 2)), zorder=1)
        if noise:
            ax.axvspan(-noise, noise, color=BAND, lw=0, zorder=-1)
        own = ladder.accuracies(records, end)
        _place(ax, len(chosen), [x - np.mean(own) for x in own], colour, ladder.failed(records, end))
        for y, rung in enumerate(reversed(chosen)):
            _place(ax, y, ladder.differences(records, rung), COLOURS[side], ladder.failed(records, rung))
        ax.set_xlabel(f"points over {end.side}")
        title = {UP: f"{PAPER}, one point as in the code", DOWN: f"{CODE}, one point as in the paper"}[side]
        ax.set_title(title, fontsize="medium", loc="left")
        ax.set_yticks(range(len(chosen) + 1), [*reversed([_named(rung) for rung in chosen]), "its seeds"])
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=5)
        ax.set_ylim(-0.6, len(chosen) + 0.6)
        ax.margins(x=0.12)
    axes[1].yaxis.tick_right()
    axes[1].tick_params(axis="y", length=0)
    sns.despine(ax=axes[1], left=True, right=False)
    dashes = {"lw": 0.9, "ls": (0, (4, 2))}
    marks = [plt.Line2D([], [], color=colour, label=end, **dashes) for end, colour in ENDS.items()]
    marks.append(plt.Line2D([], [], ls="", marker="o", mfc=INK, mec="white", ms=5.5, label="one seed"))
    if noise:
        marks.append(plt.Rectangle((0, 0), 1, 1, fc=BAND, label="made again unchanged"))
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), columnspacing=1.4)
    figure.supxlabel(f"accuracy with {labels:,} labels, pair by pair", fontsize="medium", color=FAINT)
    return figure


def switch(records: Sequence[Mapping], study: Profile) -> Figure:
    """Share of unlabelled faces that pass, over the steps, at the largest budget: a line for each run.

    Runs that fuse logits change their weights at the upright line; beside them, in grey, those that do not.
    """
    done, labels = store.finished(records), ladder.budgets(study)[-1]
    places = ladder.rungs(study, labels)
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), sharex=True)
    for ax, sides in zip(axes, ((PAPER, UP), (CODE, DOWN))):
        runs = [(rung, config.key) for rung in places if rung.side in sides for config in rung.runs]
        here = [(rung, done[key]) for rung, key in runs if key in done]
        for rung, record in here:
            end = rung.side in ENDS
            bold = end or (rung.side == UP and rung.switches)
            look = {"color": ENDS[CODE] if rung.switches else INK if end else FAINT}
            look |= {"lw": 1.8 if bold else 0.8, "zorder": 2 + end + rung.switches}
            steps = [0, *(entry["step"] for entry in record["history"])]
            kept = [100 * entry["kept"] for entry in record["history"] if entry.get("kept") is not None]
            if kept:
                ax.stairs(kept, steps, baseline=None, alpha=1 if end else 0.8, **look)
        if here:
            ax.axvline(audit.SWITCH * here[0][1]["config"]["steps"], color=INK, lw=0.8, ls=":")
            ax.set_ylim(bottom=0)
        else:
            ax.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT, style="italic")
        ax.set_title({PAPER: "the paper's end", CODE: "the code's end"}[sides[0]], fontsize="medium", loc="left")
        ax.set_xlabel("step")
        ax.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel("faces that pass (%)")
    marks = [
        plt.Line2D([], [], color=ENDS[CODE], lw=1.8, label="fuses logits: switches"),
        plt.Line2D([], [], color=INK, lw=1.8, label=PAPER),
        plt.Line2D([], [], color=FAINT, lw=0.8, label="other runs without a switch"),
        plt.Line2D([], [], color=INK, lw=0.8, ls=":", label="the switch, 15/80"),
    ]
    figure.legend(handles=marks, loc="outside upper right", ncols=4, columnspacing=1.2)
    return figure


def _named(rung: Rung) -> str:
    """A rung, on the left with the numbers of its points."""
    return f"{rung.said}  #{discrepancies.of_rung(rung.name)}" if rung.side == UP else rung.said


def _place(ax: Axes, y: int, values: Sequence[float], colour: str, failed: int) -> None:
    if values:
        if len(values) > 1:
            mean, spread = np.mean(values), np.std(values, ddof=1)
            ax.plot([mean - spread, mean + spread], [y, y], color=colour, lw=1, alpha=0.6, zorder=2)
            ax.plot([mean, mean], [y - 0.32, y + 0.32], color=colour, lw=2, solid_capstyle="butt", zorder=3)
        places = y + figures.spread_out(len(values))
        ax.plot(values, places, "o", mfc=colour, mec="white", ms=5, mew=0.6, zorder=4)
    note = f"{failed} failed" if failed else "" if values else published.NOT_RUN
    if note:
        look = {"va": "center", "color": FAINT, "style": "italic", "bbox": {"fc": "white", "lw": 0, "pad": 1}}
        ax.annotate(note, (0.015, y), xycoords=("axes fraction", "data"), **look)
    ax.axhline(y + 0.5, color="#eeeeee", lw=0.6, zorder=0)
