"""fercore: the thin library under the study of semi-supervised facial expression recognition.

What lies where, in the order in which one might read it:

faces       expressions, datasets/, splits, augment, mixing
network     encoders, convolution, text, starts, pretrain, probe
method      memory, fusion, losses, schedules, methods/ (a file for each, its equations at the head)
training    config, train (the only loop), setting, optimisers, randomness, metrics, checkpoint
records     records, dumps, features, geometry, transfer
study       claims (published numbers), plan (which runs), sweep, workers, cost, price, reproduce, cli
speed       bench, bench_methods, released (the authors' arithmetic, to be measured against)
shown       pages/ (tables, figures and sentences of the notebooks and the README)
beside      paths, errors
"""

__version__ = "0.1.0"
