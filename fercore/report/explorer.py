"""An explorer of pseudo-labels for JupyterLab: pick class, step and level, sort, leaf through faces with their bars.

It needs ipywidgets and a live notebook; everywhere else a static figure stands in its place.
"""

import io
import os

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from fercore.analysis.pseudo_labels import Shown
from fercore.report import pseudo_label_figures
from fercore.report.pseudo_label_figures import COLUMNS, LINES, SIDES

EVERY, PAGE = "all", COLUMNS * LINES
SORTS = {
    "most confident first": ("{}_sure", False),
    "least confident first": ("{}_sure", True),
    "levels disagree most": ("divergence", False),
    "levels agree most": ("divergence", True),
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

        self.shown, dump = shown, shown.dump
        steps = [(f"{step:,}", at) for at, step in enumerate(dump.steps)]
        self.step = widgets.SelectionSlider(options=steps, value=len(steps) - 1, description="step")
        self.label = widgets.Dropdown(options=[EVERY, *dump.classes], description="true class")
        self.kind = widgets.Dropdown(options=[EVERY, *SIDES], description="faces")
        self.level = widgets.ToggleButtons(options=[*dump.names, "fused"], value="fused", description="level")
        self.sort = widgets.Dropdown(options=list(SORTS), description="sort")
        self.page = widgets.BoundedIntText(value=1, min=1, max=1, description="page")
        self.count = widgets.Label()
        self.image = widgets.Image(format="png")
        choose = widgets.HBox([self.label, self.kind, self.sort])
        leaf = widgets.HBox([self.step, self.page, self.count])
        self.box = widgets.VBox([self.level, choose, leaf, self.image])
        for control in (self.step, self.label, self.kind, self.level, self.sort):
            control.observe(self._changed, "value")
        self.page.observe(self._draw, "value")
        self._changed()

    def rows(self) -> pd.DataFrame:
        """The chosen faces, in order."""
        faces = self.shown.look(self.step.value)
        if self.label.value != EVERY:
            faces = faces[faces.true == self.label.value]
        if self.kind.value != EVERY:
            faces = faces[faces[self.kind.value]]
        by, ascending = SORTS[self.sort.value]
        return faces.sort_values(by.format(self.level.value), ascending=ascending, kind="stable")

    def _changed(self, change: object = None) -> None:
        """Another choice of faces: its first page."""
        faces = len(self.rows())
        self.page.max = max(1, -(-faces // PAGE))
        self.count.value = f"of {self.page.max:,}; {faces:,} faces"
        if self.page.value == 1:
            self._draw()
        else:
            self.page.value = 1  # draws

    def _draw(self, change: object = None) -> None:
        rows = self.rows().index[PAGE * (self.page.value - 1) :][:PAGE]
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
