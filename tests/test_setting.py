"""The process around a training."""

import ctypes
import resource
import sys

import pytest
import torch

from fercore.training import devices


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt"
)
def test_freed_memory_is_used_again_without_page_faults():
    devices.choose("cpu")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 * 2**20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    first = [faults() for _ in range(4)]  # a block that is cut to its alignment may not fit its successor at once
    assert faults() < 100, first  # 16,384 pages of 4 KiB
