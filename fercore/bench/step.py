"""How fast a SIT-FER step is: medians and ratios, all cases interleaved in one process."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from fercore import augment, encoders, text
from fercore.bench import released
from fercore.config import Run
from fercore.convolution import by_columns
from fercore.data.expressions import EXPRESSIONS
from fercore.data.faces import TRAIN, Faces
from fercore.data.prepare import Data
from fercore.errors import UserError
from fercore.methods.api import Context
from fercore.study import records
from fercore.training import devices, loop, timing
from fercore.training.diagnostics import Tally
from fercore.training.pretrained import Start
from fercore.training.rng import generator

CLASSES = len(EXPRESSIONS)
# Operations of the network, with all that they call.
KERNELS = {
    "convolutions": ("aten::convolution", "aten::convolution_backward", "ByColumns", "ByColumnsBackward"),
    "batch norm": ("aten::batch_norm", "aten::native_batch_norm_backward"),
    "activation": ("aten::relu_", "aten::threshold_backward"),
    "pooling": ("aten::max_pool2d", "aten::max_pool2d_with_indices_backward", "aten::adaptive_avg_pool2d"),
    "casts and sums": ("aten::to", "aten::add_", "aten::add"),
}


def training(slots: int, *, size: int, native: int, batch: int, device: torch.device) -> loop.Training:
    """A SIT-FER run on random faces of `native` pixels, all labelled and in the memory, at its first step."""
    config = Run(
        "random", "sitfer", 0, 1, evaluations=1, batch=batch, unlabelled_batch=batch, image_size=size, text="random",
        include_labelled=True,
    )  # fmt: skip
    draw, everyone = np.random.default_rng(0), np.arange(slots)
    images = draw.integers(0, 256, (slots, 3, native, native), np.uint8)
    labels, split = draw.integers(0, CLASSES, slots), np.full(slots, TRAIN, np.int8)
    faces = Faces("random", images, labels, split, EXPRESSIONS, everyone.astype(str), "")
    run = loop.set_up(config, Data(faces, everyone, everyone[:0], 0, everyone), Start(), device)
    return with_memory(run, slots)


def with_memory(run: loop.Training, slots: int) -> loop.Training:
    """The same run on its first `slots` faces: a memory of so many slots, all of them valid."""
    rows, width = torch.arange(slots), run.model.embedding_width
    table = text.table(run.config.text, run.config.prompt, EXPRESSIONS)
    context = Context(CLASSES, slots, rows, rows, run.model.width, width, table, 0)
    state = run.method.state(context, run.options).to(run.device)
    embedding = F.normalize(torch.randn(slots, width, generator=generator(0, "memory")), dim=1).to(run.device)
    seen = encoders.Output(torch.zeros(slots, CLASSES), embedding, embedding)
    run.method.prepare(lambda: seen, rows.to(run.device), run.views.labels[:slots].to(run.device), state)
    views = replace(run.views, labelled=rows, unlabelled=rows)
    return replace(run, views=views, state=state, tally=Tally())


def there_and_back(network: nn.Module, images: Tensor, bf16: bool) -> Callable[[int], None]:
    """Forward and backward of a network without a head."""

    def step(number: int) -> None:
        network.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            features = network(images)
        features.float().square().mean().backward()

    return step


def ours(run: loop.Training) -> Callable[[int], None]:
    """A training step, as loop.run takes it."""
    return partial(loop.train_step, run)


def viewing(kind: str, faces: Tensor, px: int) -> Callable[[int], Tensor]:
    """Weak or strong views of `px` pixels; from faces of that size already, where it is below their own."""
    faces = augment.resize(faces, min(px, faces.shape[2]))
    return lambda number: getattr(augment, kind)(faces, px, generator(0, kind, number))


def shares(run: loop.Training, number: int) -> dict[str, float]:
    """Where the time of one step on a CPU goes, as shares that sum to 1, by the profiler.

    The views come before the network; optimiser, EMA and tally come last.
    """

    def mark(*_) -> None:
        with record_function("network"):
            pass

    hook = run.model.backbone.register_forward_pre_hook(mark)
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as trace:
        loop.train_step(run, number)
    hook.remove()
    events = sorted(trace.events(), key=lambda event: event.time_range.start)
    begin, end = events[0].time_range.start, max(event.time_range.end for event in events)
    first = next(event.time_range.start for event in events if event.name == "network")
    last = next(event.time_range.start for event in events if event.name.startswith("Optimizer.step"))
    kernel_of = {name: kernel for kernel, names in KERNELS.items() for name in names}
    spent = dict.fromkeys(KERNELS, 0.0)
    for event in events:
        within = event.cpu_parent is not None and event.cpu_parent.name in kernel_of
        if event.name in kernel_of and not within and first <= event.time_range.start < last:
            spent[kernel_of[event.name]] += event.cpu_time_total
    spent["votes, fusion, losses, Python"] = last - first - sum(spent.values())
    spent |= {"views, batch": first - begin, "optimiser, EMA, tally": end - last}
    return {name: time / (end - begin) for name, time in spent.items()}


def waits(run: loop.Training) -> str:
    """What torch says of the first wait for the GPU in one step, or "none"."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.train_step(run, 0)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def line(kind: str, name: str, value: float, unit: str = "", target: str = "") -> str:
    """One line of the report; `target` reads "<= 0.40" or ">= 400"."""
    out = f"{kind:<6} {name:<60} {value:>9.2f} {unit}".rstrip()
    if not target:
        return out
    relation, bound = target.split()
    reached = value <= float(bound) if relation == "<=" else value >= float(bound)
    return f"{out}  target {target}: {'reached' if reached else 'missed'}"


def step(
    repeats: int,
    device: torch.device,
    *,
    size: int = 224,
    narrow: int = 48,
    slots: tuple[int, ...] = (100, 400, 4000),
    batch: int = 16,
    native: int = 100,
    product: int = 8192,
) -> Iterator[str]:
    """Lines of `python -m fercore bench step`; its targets are for two cores that have BF16. Raises UserError.

    `slots`: memory sizes; `native`: pixels of the stored faces; `product`: side of the square matrix
    product whose rate, in the backbone's precision, makes a GPU's floor.
    """
    if repeats < 1:
        raise UserError(f"--repeats: {repeats}; at least one round is needed")
    k = max(slots)
    run = training(k, size=size, native=native, batch=batch, device=device)
    precision, bf16 = run.precision, run.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    origin = records.provenance(device, precision, 0.0, 1)
    has = [name for name in devices.BF16 if devices.capabilities().get(name)]
    by = " and ".join(has) or "neither " + " nor ".join(devices.BF16)
    can = "" if device.type == "cuda" else f"; {by}"
    yield f"{origin['device']}; {origin['threads']} threads{can}; backbone in {precision}; torch {torch.__version__}"
    yield f"ResNet-18; {batch}+{batch} faces of {native} px at {size} px; narrow: 48 faces at {narrow} px"
    yield f"K: slots of the memory, all valid. Medians of {repeats} rounds, each of every case"

    memory, labels = run.state.memory, run.views.labels.tolist()
    theirs = released.Released(labels, CLASSES, run.config.lr, device)
    query = F.normalize(torch.randn(batch, run.model.embedding_width, device=device), dim=1)
    faces = devices.take(run.views.images, torch.arange(batch), device)
    views = {f"{kind} views, {px} px": viewing(kind, faces, px) for px in (size, narrow) for kind in ("weak", "strong")}
    resnet, lasting = encoders.resnet("resnet18"), {"device": device, "memory_format": torch.channels_last}
    large, small = (torch.randn(n, 3, px, px).to(**lasting) for n, px in ((2 * batch, size), (48, narrow)))
    library = resnet().to(**lasting)
    whole = f"step, K = {k}"
    cases: dict[str, Callable[[int], object]] = {f"step, K = {n}": ours(with_memory(run, n)) for n in slots}
    cases |= {
        "step, the released way": lambda number: theirs.step(loop.batch(run, number)[0]),
        "vote": lambda number: memory.vote(query, run.options.t_instance),
        "vote, the released loop": lambda number: released.vote(query, memory.embedding, labels, CLASSES),
        "network, fp32 NCHW": there_and_back(resnet().to(device), large.contiguous(), False),
        f"network, {precision} channels last": there_and_back(library, large, bf16),
        "narrow, by the library": there_and_back(library, small, bf16),
        "narrow, by columns": there_and_back(by_columns(resnet()).to(**lasting), small, bf16),
    }
    if device.type == "cuda":  # a CPU's convolutions, on weights laid out for them, outrun its plain product
        matrix = torch.randn(product, product, device=device, dtype=dtype)
        cases["matrix product"] = lambda number: matrix @ matrix
    ms = timing.medians(cases | views, repeats, device)
    yield from (line("median", name, value, "ms") for name, value in ms.items())
    yield from (line("rate", name, 1000 * batch / ms[name], "images/s") for name in views)
    for above, below, target in (
        (whole, "step, the released way", "<= 0.40"),
        ("vote, the released loop", "vote", ">= 400"),
        ("network, fp32 NCHW", f"network, {precision} channels last", ""),
        ("narrow, by the library", "narrow, by columns", ""),
    ):
        yield line("ratio", f"{above} / {below}", ms[above] / ms[below], "", target)

    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield f"gpu    waits for the device in a step: {waits(run)}"
        taken = torch.cuda.max_memory_allocated(device) - before
        yield line("gpu", f"{whole}: memory beyond model, optimiser and faces", taken / 2**20, "MiB")
        yield line("gpu", f"{whole}: speed", 2000 * batch / ms[whole], "images/s")
        with FlopCounterMode(display=False) as counter:
            loop.train_step(run, 0)
        operations, rate = counter.get_total_flops(), 2 * product**3 / ms["matrix product"]
        yield line("floor", f"operations of a step, K = {k}", operations / 1e9, "GFLOP")
        yield line("floor", f"rate of the product of two {product} x {product} matrices", rate / 1e6, "GFLOP/s")
        yield line("ratio", f"{whole} / its floor", ms[whole] * rate / operations)
        return
    parts = [shares(run, number) for number in range(repeats)]
    share = {name: 100 * statistics.mean(part[name] for part in parts) for name in parts[0]}
    yield line("share", "everything but convolutions", 100 - share["convolutions"], "%", "<= 12")
    yield from (line("share", name, value, "%") for name, value in sorted(share.items(), key=lambda pair: -pair[1]))
    yield "gpu    not run: no GPU"
