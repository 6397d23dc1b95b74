"""Which device, in which precision, and how faces get there."""

import pytest
import torch

from fercore.errors import UserError
from fercore.training import devices

CPU = torch.device("cpu")


def test_device_of_a_name(monkeypatch):
    with pytest.raises(UserError, match="device: 'gpu' is unknown"):
        devices.choose("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose() == devices.choose("cpu") == CPU
    with pytest.raises(UserError, match="no CUDA device"):
        devices.choose("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    # As tensors report it: else every batch would be taken for a host tensor.
    assert devices.choose() == devices.choose("cuda") == torch.device("cuda:0")
    assert devices.choose("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match=r"cuda:2 was asked for and torch sees 2 here"):
        devices.choose("cuda:2")


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "cpu:1"])
def test_devices_that_are_not_supported(name):
    with pytest.raises(UserError, match=f"device: {name} is not supported; use auto, cpu, cuda or cuda:N"):
        devices.choose(name)


@pytest.mark.parametrize(
    "has, expected",
    [((), "fp32"), (("avx512_f", "avx512_fp16"), "fp32"), (("avx512_bf16",), "bf16"), (("amx_bf16",), "bf16")],
)
def test_auto_is_bf16_where_the_processor_multiplies_in_it(has, expected, monkeypatch):
    here = {"avx2": True, "amx_bf16": False, **dict.fromkeys(has, True)}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: here)
    assert devices.precision("auto", CPU) == expected
    assert [devices.precision(asked, CPU) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]


def test_precision_of_this_machine_and_of_a_graphics_card(monkeypatch):
    assert devices.precision("auto", CPU) in ("fp32", "bf16")
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, yes=supported: yes)
        assert devices.precision("auto", torch.device("cuda:0")) == expected


def test_rows_are_taken_in_their_order():
    images = torch.arange(5 * 3 * 2 * 2).reshape(5, 3, 2, 2).to(torch.uint8)
    resident = devices.resident(images.flip(1).numpy()[:, ::-1], CPU)  # as a memory map with its colours turned
    assert torch.equal(devices.take(resident, torch.tensor([3, 0, 3]), CPU), images[[3, 0, 3]])
