"""Figures of points around SIT-FER: Figure 4, the tornado, the votes. Style and saving are in figures.py."""

import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from fercore.analysis import ablations, sensitivity
from fercore.analysis import claims as published
from fercore.analysis.ablations import Setting
from fercore.report.figures import BAND, COLOURS, FAINT, INK, SIZE, line

WIDE = 7.4  # inches
LOWER, HIGHER = "#0072B2", "#E69F00"  # than our choice
VOTES = {"sum": (INK, "o"), "mean": ("#0072B2", "s"), "prior": ("#E69F00", "D")}
SYMBOLS = {
    "tau": r"$\tau$",
    "delta": r"$\delta$",
    "t_text": "$T$ (text)",
    "t_instance": "$T'$ (instance)",
    "lambda_1": r"$\lambda_1$",
    "lambda_2": r"$\lambda_2$",
    "alpha": r"$\alpha$ (memory)",
    "lr": "learning rate",
    "window": "window (alignment)",
    "projection": "projection, width",
}


def thresholds(found: Sequence[Setting], axis: str) -> Figure:
    """An axis of Figure 4, the first budget. Left against its values, right over the training, a colour for each value.

    From the top: test accuracy, unlabelled faces kept, pseudo-labels right (all, and those kept), faces in the memory.
    Left a dot for each seed, a line through the means, a band of one standard deviation; right means and their range.
    Means are over the seeds that all values have; a hollow dot is another seed. Thresholds stand by the logarithm of
    what they leave to 1.
    """
    here = first(found, axis)
    shared = ablations.shared(s for s in here if s.done)
    places = [-np.log(1 - float(s.value)) for s in here]
    figure, axes = plt.subplots(4, 2, figsize=(WIDE, 6.8), sharex="col", height_ratios=(1.6, 1, 1, 1))
    rows: list[tuple[str, Callable[[Mapping], float | None]]] = [
        ("accuracy (%)", lambda h: h["classifier"]["accuracy"]),
        ("kept (%)", lambda h: h.get("kept")),
        ("right (%)", lambda h: h.get("pseudo_accuracy")),
        ("memory (faces)", lambda h: h["memory"] / 100 if h.get("memory") is not None else None),  # `line` draws %
    ]
    left = [
        lambda r: [published.measure(r)],
        lambda r: [ablations.tail([r], "kept")],
        lambda r: [ablations.tail([r], "pseudo_accuracy"), ablations.tail([r], "pseudo_accuracy_kept")],
        lambda r: [ablations.memory([r])],
    ]
    colours = [to_hex(colour) for colour in plt.get_cmap("viridis")(np.linspace(0, 0.9, len(here)))]
    for (at, over), (label, value), of in zip(axes, rows, left):
        _against(at, here, places, shared, of)
        for s, colour in zip(here, colours):
            line(over, shared.get(s, []), value, colour, s.value)
        at.set(ylabel=label)
        at.locator_params(axis="y", nbins=5)
        over.locator_params(axis="y", nbins=5)
    for place, s in zip(places, here):
        if not s.done:
            how = {"xycoords": ("data", "axes fraction"), "rotation": 90, "ha": "center", "va": "bottom"}
            note = "failed" if s.failed else "not run"
            axes[0, 0].annotate(note, (place, 0.03), color=FAINT, style="italic", fontsize=7, **how)
    for ax in axes[:, 0]:
        for place, s in zip(places, here):
            if s.chosen:
                ax.axvline(place, color=INK, lw=0.7, ls=":", zorder=0)
    optimum = ablations.OPTIMUM.get(axis)
    said = "value lost" if optimum is None else f"$\\blacktriangledown$ {optimum:g}"
    axes[0, 0].set_title(f"published optimum: {said};  dotted: ours", fontsize="small", color=INK, pad=10)
    if optimum is not None:
        above = axes[0, 0].get_xaxis_transform()
        axes[0, 0].plot(-np.log(1 - optimum), 1.03, "v", color=INK, ms=6, clip_on=False, transform=above)
    axes[2, 0].set_title("black: all, green: those kept", fontsize=7, pad=2, loc="left")
    axes[3, 0].set(xlabel=SYMBOLS[axis])
    axes[3, 0].set_xticks(places, [s.value for s in here])
    edge = 0.06 * (places[-1] - places[0])
    axes[3, 0].set_xlim(places[0] - edge, places[-1] + edge)
    axes[3, 1].set(xlabel="step")
    axes[3, 1].locator_params(axis="x", nbins=4)
    if handles := axes[0, 1].get_lines():
        title = {"title": SYMBOLS[axis], "title_fontsize": "small", "fontsize": "small"}
        axes[0, 1].legend(handles=handles, ncols=2, loc="lower right", columnspacing=1, **title)
    else:
        for ax in axes[:, 0]:
            ax.set(yticks=[])
        for ax in axes[:, 1]:
            ax.set(xticks=[], yticks=[])
            ax.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT, style="italic")
    return figure


def tornado(found: Sequence[Setting], noise: float = 0.0) -> Figure:
    """The gain over FixMatch when one constant changes, the first budget: widest bar on top.

    A bar reaches from the gain at our choice to that gain and the mean paired change; a dot is a seed. Values that
    have no run are named under the axis. `noise`: points by which a run moves when it is made again, a grey band.
    """
    labels = found[0].labels
    rows = [(axis, here) for budget, axis, here in sensitivity.bars(found) if budget == labels]
    base = next(s for s in found if s.labels == labels and s.chosen and s.axis != ablations.RIVAL_RATE)
    gain = list(base.gain().values())
    middle = np.mean(gain) if gain else 0.0
    drawn = [(axis, here) for axis, here in rows if gain and any(s.change() for s in here if not s.chosen)]
    figure, ax = plt.subplots(figsize=(WIDE, 1.6 + 0.42 * max(len(drawn), 2)))
    for y, (_, here) in enumerate(reversed(drawn)):
        chosen = next(i for i, s in enumerate(here) if s.chosen)
        others = [(i, s) for i, s in enumerate(here) if not s.chosen]
        for k, (i, s) in enumerate(others):
            change, colour = list(s.change().values()), LOWER if i < chosen else HIGHER
            at = y + (0.2 - 0.4 * k if len(others) > 1 else 0)
            if change:
                mean = float(np.mean(change))
                ax.barh(at, mean, 0.34, left=middle, color=colour, alpha=0.75, lw=0)
                ax.plot(middle + np.array(change), [at] * len(change), "o", mfc=colour, mec="white", ms=4, mew=0.5)
                reach = [0.0, mean, *change]
                end, side = (max(reach), 1) if mean >= 0 else (min(reach), -1)
                place = {"textcoords": "offset points", "ha": "left" if side > 0 else "right", "va": "center"}
                ax.annotate(s.value, (middle + end, at), (4 * side, 0), fontsize=7, color=INK, **place)
    for y in np.arange(len(drawn) - 1) + 0.5:
        ax.axhline(y, color="#eeeeee", lw=0.6, zorder=0)
    names = [f"{SYMBOLS[axis]}  {next(s.value for s in here if s.chosen)}" for axis, here in reversed(drawn)]
    ax.set_yticks(range(len(drawn)), names)
    ax.tick_params(axis="y", length=0)
    ax.set(ylim=(-0.6, max(len(drawn), 2) - 0.4), xlabel="gain over FixMatch (points)")
    ax.use_sticky_edges = False  # bars are no borders
    ax.margins(x=0.12)
    if drawn:
        ax.axvline(middle, color=INK, lw=1)
        ax.axvline(0, color=FAINT, lw=0.8, ls=":")
        if noise:
            ax.axvspan(middle - noise, middle + noise, color=BAND, lw=0, zorder=-1)
    if not drawn:
        ax.set_axis_off()
        ax.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT, style="italic")
    missing = [s for _, here in rows for s in here if not s.chosen and not s.change()]
    if missing or not gain:
        absent = [] if gain else ["SIT-FER or FixMatch as they are"]
        said = textwrap.fill(f"not run: {'; '.join([*absent, *ablations.listed(missing)])}", 125)
        figure.supxlabel(said, fontsize=7, color=FAINT, style="italic", x=0.01, ha="left")
    marks = [plt.Line2D([], [], color=INK, lw=1, label="at our choice (beside the name)")]
    marks += [
        plt.Rectangle((0, 0), 1, 1, fc=c, alpha=0.75, label=what) for c, what in ((LOWER, "lower"), (HIGHER, "higher"))
    ]
    marks.append(plt.Line2D([], [], ls="", marker="o", mfc=FAINT, mec="white", ms=5, label="one seed"))
    if noise:
        marks.append(plt.Rectangle((0, 0), 1, 1, fc=BAND, label="made again unchanged"))
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks), columnspacing=1.2)
    return figure


def votes(found: Sequence[Setting]) -> Figure:
    """Class by class, the most frequent on top, the first budget: recall, and the share of the kept pseudo-labels.

    A large mark is a mean, a small dot a seed; a grey bar is the class's share of the test faces.
    """
    ran = [s for s in first(found, "vote") if s.done]
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDE, SIZE[1]), sharey=True, width_ratios=(1.3, 1))
    if not ran:
        for ax in (left, right):
            ax.set_axis_off()
        figure.text(0.5, 0.5, "not run", ha="center", color=FAINT, style="italic")
        return figure
    names, share = ran[0].done[0]["data"]["classes"], sensitivity.frequencies(ran[0].done)
    order = np.argsort(share, kind="stable")
    right.barh(range(len(order)), 100 * share[order], 0.8, color="#e4e4e4", lw=0)
    for k, s in enumerate(ran):
        colour, marker = VOTES[s.value]
        y = np.arange(len(order)) + 0.26 * ((len(ran) - 1) / 2 - k)
        for r in s.done:
            left.plot(100 * sensitivity.recall([r])[order], y, ".", color=colour, ms=4.5, mew=0, alpha=0.6)
            right.plot(100 * sensitivity.shares([r])[order], y, ".", color=colour, ms=4.5, mew=0, alpha=0.6)
        look = {"mfc": colour, "mec": "white", "ms": 5.5, "mew": 0.6, "ls": ""}
        left.plot(100 * sensitivity.recall(s.done)[order], y, marker, label=s.value, **look)
        right.plot(100 * sensitivity.shares(s.done)[order], y, marker, **look)
    for ax in (left, right):
        for y in np.arange(len(order) - 1) + 0.5:
            ax.axhline(y, color="#eeeeee", lw=0.6, zorder=0)
        ax.tick_params(axis="y", length=0)
    left.set_yticks(range(len(order)), [names[k] for k in order])
    left.set(xlabel="recall (%)")
    right.set(xlabel="share of the kept (%); grey: of the test faces", xlim=(0, None))
    marks, _ = left.get_legend_handles_labels()
    figure.legend(handles=marks, loc="outside upper right", ncols=3, handletextpad=0.1, columnspacing=1.2)
    return figure


def first(found: Sequence[Setting], axis: str) -> list[Setting]:
    """The settings of an axis with the first budget."""
    return [s for s in found if s.axis == axis and s.labels == found[0].labels]


def _against(
    ax: Axes,
    here: Sequence[Setting],
    places: Sequence[float],
    shared: Mapping[Setting, list[Mapping]],
    of: Callable[[Mapping], list[float]],
) -> None:
    """Numbers of runs against the values of an axis: seeds as dots, mean as a line, standard deviation as a band."""
    x = [place for place, s in zip(places, here) if s in shared]
    numbers = [np.array([of(r) for r in runs]) for runs in shared.values()]
    seeds = {ablations.seed_of(r) for runs in shared.values() for r in runs}
    others = [(place, of(r)) for place, s in zip(places, here) for r in s.done if ablations.seed_of(r) not in seeds]
    for k, colour in zip(range(numbers[0].shape[1] if numbers else 0), (INK, COLOURS["text"])):
        columns = [values[:, k][~np.isnan(values[:, k])] for values in numbers]
        mean = np.array([c.mean() if len(c) else np.nan for c in columns])
        spread = np.array([c.std(ddof=1) if len(c) > 1 else 0.0 for c in columns])
        ax.plot(x, mean, "-", color=colour, lw=1.3, zorder=3)
        if spread.any():
            ax.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
        for place, column in zip(x, columns):
            ax.plot([place] * len(column), column, "o", mfc=colour, mec="white", ms=4.5, mew=0.5, zorder=4)
        for place, values in others:
            ax.plot(place, values[k], "o", mfc="white", mec=colour, ms=4, mew=0.7, zorder=3)
