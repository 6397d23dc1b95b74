"""All labels, same network: the like-for-like upper bound that SIT-FER's Table I lacks.

Its "fully supervised" rows are other networks (DLP-CNN, RAN). Here the labelled set is the whole training set, and
everything else is as in the other rows.
"""

from fercore.methods.supervised import VIEWS, Config, step

NAME, FAMILY = "All labels", "supervised"
ALL_LABELS = True

__all__ = ["ALL_LABELS", "FAMILY", "NAME", "VIEWS", "Config", "step"]
