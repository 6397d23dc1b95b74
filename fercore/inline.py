"""Figures inside a notebook, as small as they can be: PNG with a palette, a third of what matplotlib writes.

A stored notebook carries its figures as text, and git every version of them.
"""

import io
import sys

from matplotlib.figure import Figure
from PIL import Image


def png(figure: Figure) -> bytes:
    """The figure as a notebook shows it, in 256 colours; maximum coverage keeps those of few pixels, as in a legend."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=figure.dpi, bbox_inches="tight")
    colours = Image.open(full).convert("RGB")
    palette = colours.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(small, format="png", optimize=True)
    return small.getvalue()


def register() -> None:
    """Have IPython show figures so; elsewhere nothing happens."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        # Before every cell, as matplotlib's own formatter comes late, after the first cell that imports it.
        shell.events.register("pre_run_cell", _use)


def _use(info: object = None) -> None:
    shell = sys.modules["IPython"].get_ipython()
    shell.display_formatter.formatters["image/png"].for_type(Figure, png)
