"""What tests let a process of its own do. It is forked from one that has fercore at hand, without checks of shapes."""

import json
import os
import resource
import sys
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import torch
import toy

from fercore.cli import main
from fercore.training import devices

FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(["child"])


def typed(arguments, printed):
    """`python -m fercore ...`, with the toy encoder; what it prints is written to the file."""
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["fercore", *map(str, arguments)]
    main()


def losses(config, compile, root, out):
    """The losses of a run, compiled by the front end alone: its code generation takes minutes and is torch's to test.

    Checks of shapes cannot be traced.
    """
    torch.nn.Module.compile = lambda model: setattr(
        model, "_compiled_call_impl", torch.compile(model._call_impl, backend="aot_eager")
    )
    os.environ["FERCORE_CACHE"] = str(Path(out).with_suffix(".cache"))
    history = toy.run(toy.config(**config, compile=compile), root).record["history"]
    Path(out).write_text(json.dumps([entry["loss"]["total"] for entry in history]))


def faults(out):
    """Page faults while a block of 64 MiB is filled and freed, again and again."""
    devices.choose("cpu")
    counts = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
    for _ in range(5):
        torch.ones(16 * 2**20)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    Path(out).write_text(json.dumps([after - before for before, after in pairwise(counts)]))
