"""What a study costs, before anything is trained: images, operations, hours, bytes. Needs no data and no weights.

A step's cost is counted, not declared: the images that pass through the network with gradient and without, on
rendered faces of 16 pixels, times the operations of one image at the study's size. Hours are those of records of the
same device, image size and encoder where there are some, else operations at a rate measured here and now.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from fercore import encoders, files
from fercore.config import Run
from fercore.data import prepare
from fercore.data.check import OFFICIAL
from fercore.data.expressions import EXPRESSIONS
from fercore.methods import budget, source
from fercore.study import records
from fercore.training import devices, loop, timing
from fercore.training.pretrained import Start

CLASSES = len(EXPRESSIONS)
SAME = ("method", "options", "batch", "unlabelled_batch", "compile")  # equal for runs whose steps last equally long


class Images(NamedTuple):
    """Images through the network in one step: in passes with gradient, and in passes without."""

    trained: int
    guessed: int


class Operations(NamedTuple):
    """Floating-point operations of one image: forward and backward, and forward alone."""

    trained: float
    guessed: float


def small(config: Run, size: int = 16, encoder: str = "resnet18", device: str = "cpu") -> loop.Training:
    """The run's method and batches on a few rendered faces, at its first step."""
    config = replace(
        config,
        dataset="facs",
        dataset_options={"n": 3 * CLASSES, "test": CLASSES},
        labels=budget(config.method, CLASSES),
        image_size=size,
        encoder=encoder,
        start="none",
        start_keys={},
        text="orthogonal",
        validation=0.0,
        compile=False,
    )
    faces = prepare.prepare("facs", None, size=size, options=config.dataset_options)
    run = loop.set_up(config, faces, Start(), devices.choose(device))
    loop.prepare(run)
    return run


def images(config: Run) -> Images:
    """Counted in one step of the run's method."""
    options = files.canonical(config.options)
    return _images(config.method, options, config.batch, config.unlabelled_batch, source(config.method))


@cache
def _images(method: str, options: str, labelled: int, unlabelled: int, code: str) -> Images:
    config = Run("facs", method, CLASSES, options=json.loads(options), batch=labelled, unlabelled_batch=unlabelled)
    run, counts = small(replace(config, precision="fp32")), {True: 0, False: 0}
    batch = loop.batch(run, 0)[0]

    def count(_, arguments: tuple) -> None:
        counts[torch.is_grad_enabled()] += len(arguments[0])

    for network in (run.model, *run.state.modules()):  # a teacher's count as well
        if isinstance(network, encoders.ImageEncoder):
            network.backbone.register_forward_pre_hook(count)
    loop.update(run, batch)
    return Images(counts[True], counts[False])


@cache
def operations(encoder: str, size: int) -> Operations:
    """Of one image of `size` pixels, counted by torch on tensors without content."""
    with torch.device("meta"):
        network, faces = encoders.backbone(encoder)[0], torch.empty(2, 3, size, size)
    with FlopCounterMode(display=False) as forward:
        features = network(faces)
    with FlopCounterMode(display=False) as backward:
        features.sum().backward()
    one = forward.get_total_flops() / 2
    return Operations(one + backward.get_total_flops() / 2, one)


def faces(name: str, options: Mapping) -> tuple[int, int] | None:
    """Training and test faces of a data set as published, or as drawn; None where that depends on the copy."""
    if name == "facs":
        return options.get("n", 2000), options.get("test", 700)
    if not {"train", "test"} <= OFFICIAL.get(name, {}).keys():
        return None
    counts = [OFFICIAL[name][part][0][1] for part in ("train", "test")]
    return tuple(sum(count) if isinstance(count, tuple) else count for count in counts)


def work(config: Run) -> float:
    """Operations of a whole run: its steps, and its evaluations where the number of test faces is known."""
    step, one = images(config), operations(config.encoder, config.image_size)
    tested = (faces(config.dataset, config.dataset_options) or (0, 0))[1]
    per_step = step.trained * one.trained + step.guessed * one.guessed
    return config.steps * per_step + config.evaluations * tested * one.guessed


# Time


@dataclass(frozen=True)
class Clock:
    """Seconds of runs on one device. `measured`: finished runs of that device, image size and encoder."""

    device: torch.device
    precision: str
    measured: list[Mapping]
    rate: float  # operations per second
    source: str  # of the rate

    def seconds(self, config: Run) -> tuple[float, bool]:
        """Seconds of a run, and whether they come from records of the same method, batches and options."""
        same = [r for r in self.measured if all(r["config"][key] == getattr(config, key) for key in SAME)]
        if not same:
            return work(config) / self.rate, False
        return config.steps * statistics.median(r["provenance"]["seconds"] / r["config"]["steps"] for r in same), True


def clock(config: Run, device: torch.device, known: Iterable[Mapping]) -> Clock:
    """For runs like this one: from records of the same device, image size and encoder, else from a measured step."""
    precision = devices.precision(config.precision, device)
    here = {"device": devices.name(device), "precision": precision}
    if device.type == "cpu":
        here["threads"] = torch.get_num_threads()
    measured = [
        r
        for r in records.finished(r for r in known if r["kind"] == "run").values()
        if all(r["provenance"].get(key) == value for key, value in here.items())
        and r["provenance"]["seconds"] > 0  # rounded: a run of a few steps may have none
        and all(r["config"].get(key) == getattr(config, key) for key in ("image_size", "encoder"))
        and r["provenance"]["seconds"] > 0
    ]
    if measured:
        rates = [work(Run.from_dict(r["config"])) / r["provenance"]["seconds"] for r in measured]
        rate, source = statistics.median(rates), f"the median of {len(measured)} records"
    else:
        run = small(replace(config, method="fixmatch", options={}), config.image_size, config.encoder, str(device))
        ms = timing.medians({"fixmatch": partial(loop.train_step, run)}, 3, device)["fixmatch"]
        step, one = images(run.config), operations(config.encoder, config.image_size)
        rate = 1000 * (step.trained * one.trained + step.guessed * one.guessed) / ms
        source = "FixMatch's step, measured now"
    return Clock(device, precision, measured, rate, source)
