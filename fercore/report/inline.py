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
        # Late, as the first figure brings matplotlib's own formatter; and before matplotlib shows what a cell drew, as
        # callbacks are called in the order of their registration and its own is registered with the first figure.
        for event in ("pre_run_cell", "post_execute"):
            shell.events.register(event, _use)


def _use(info: object = None) -> None:
    shell = sys.modules["IPython"].get_ipython()
    shell.display_formatter.formatters["image/png"].for_type(Figure, png)
