"""An explorer of pseudo-labels for JupyterLab: pick class, step and level, sort, leaf through faces with their bars.

It needs ipywidgets and a live notebook; everywhere else a static figure stands in its place.
"""

import io
import os

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from fercore.analysis import pseudo_labels
from fercore.analysis.pseudo_labels import Shown
from fercore.report import pseudo_label_figures
from fercore.report.pseudo_label_figures import COLUMNS, LINES

EVERY = "all"
SORTS = {
    "most confident first": ("confidence", False),
    "least confident first": ("confidence", True),
    "levels disagree most": ("disagreement", False),
    "levels agree most": ("disagreement", True),
}


def live() -> bool:
    """Whether a notebook server has started this kernel: Papermill, nbconvert and nbval start theirs themselves."""
    return "JPY_SESSION_NAME" in os.environ


def show(shown: Shown | None, figure: Figure) -> "Explorer | None":
    """The explorer in place of this figure where a notebook is live; else the figure stays and None is returned."""
    if shown is None or not live():
        return None
    plt.close(figure)
    return Explorer(shown)


class Explorer:
    """Controls and one page of faces. A change of any control draws the page anew."""

    def __init__(self, shown: Shown):
        import ipywidgets as widgets

        self.shown = shown
        dump = shown.dump
        levels = [*dump.names, "fused"]
        steps = [(f"{step:,}", at) for at, step in enumerate(dump.steps)]
        self.step = widgets.SelectionSlider(options=steps, value=len(steps) - 1, description="step")
        self.label = widgets.Dropdown(options=[EVERY, *dump.classes], description="true class")
        self.kind = widgets.Dropdown(
            options=[EVERY, pseudo_labels.RESCUED, pseudo_labels.SPOILED], description="faces"
        )
        self.level = widgets.ToggleButtons(options=levels, value="fused", description="level")
        self.sort = widgets.Dropdown(options=list(SORTS), description="sort")
        self.page = widgets.BoundedIntText(value=1, min=1, max=1, description="page")
        self.count = widgets.Label()
        self.image = widgets.Image(format="png")
        choose = widgets.HBox([self.label, self.kind, self.sort])
        self.box = widgets.VBox(
            [self.level, choose, widgets.HBox([self.step, self.page, self.count]), self.image]
        )
        for control in (self.step, self.label, self.kind, self.level, self.sort):
            control.observe(self._changed, "value")
        self.page.observe(self._draw, "value")
        self._changed()

    def rows(self) -> Tensor:
        """The chosen faces, in order."""
        dump = self.shown.dump
        levels = pseudo_labels.look(dump, self.step.value)
        keep = dump.labels >= 0
        if self.label.value != EVERY:
            keep = dump.labels == dump.classes.index(self.label.value)
        if self.kind.value != EVERY:
            keep = keep & pseudo_labels.outcome(levels, dump.labels)[self.kind.value]
        by, turned = SORTS[self.sort.value]
        rows = pseudo_labels.order(levels, keep.nonzero()[:, 0], by, self.level.value)
        return rows.flip(0) if turned else rows

    def _changed(self, change: object = None) -> None:
        """Another choice of faces: its first page."""
        rows, size = self.rows(), COLUMNS * LINES
        self.page.max = max(1, -(-len(rows) // size))
        self.count.value = f"of {self.page.max:,}; {len(rows):,} faces"
        if self.page.value == 1:
            self._draw()
        else:
            self.page.value = 1  # draws

    def _draw(self, change: object = None) -> None:
        size = COLUMNS * LINES
        rows = self.rows()[size * (self.page.value - 1) :][:size]
        # Drawn aside: an open figure would be shown a second time by the notebook.
        with plt.ioff():
            figure = pseudo_label_figures.page(self.shown, rows, self.level.value, self.step.value)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=100)
        plt.close(figure)
        self.image.value = png.getvalue()

    def _repr_mimebundle_(self, **options: object) -> dict:
        """What a notebook shows of it."""
        return self.box._repr_mimebundle_(**options)
