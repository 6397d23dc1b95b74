"""The methods of the comparison, one file each. What a method is stands in `api.py`.

A new method is one file and one line here.
"""

from fercore.methods import (
    adacm,
    api,
    audit,
    fixmatch,
    flexmatch,
    freematch,
    fullysupervised,
    lion,
    marginmix,
    mixmatch,
    pseudolabel,
    remixmatch,
    simmatch,
    sitfer,
    supervised,
    uda,
)
from fercore.methods.api import METHODS, Batch, Context, Encode, Step, budget, register, resolve, source, views

__all__ = ["METHODS", "Batch", "Context", "Encode", "Step", "api", "budget", "register", "resolve", "source", "views"]

# In the order of SIT-FER's Table I, then the rows that it omits, then the audit.
for module in (
    supervised,
    pseudolabel,
    mixmatch,
    uda,
    remixmatch,
    marginmix,
    fixmatch,
    adacm,
    lion,
    sitfer,
    fullysupervised,
    flexmatch,
    simmatch,
    freematch,
    audit,
):
    METHODS[module.__name__.rpartition(".")[2]] = module
