"""How long things take: all cases interleaved in one process, so that a machine's moods meet all alike."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from tqdm.auto import tqdm


def medians(cases: dict[str, Callable[[int], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of each case: the median of `repeats` rounds."""
    return {name: statistics.median(values) for name, values in rounds(cases, repeats, device).items()}


def rounds(cases: dict[str, Callable[[int], object]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each case in each of `repeats` rounds, after one that does not count."""
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in tqdm(range(repeats + 1), desc="rounds", disable=None):
        for name, case in cases.items():
            wait()
            started = time.perf_counter()
            case(number)
            wait()
            seconds[name].append(time.perf_counter() - started)
    return {name: [1000 * value for value in values[1:]] for name, values in seconds.items()}
