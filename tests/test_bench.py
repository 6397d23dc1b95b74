"""The bench measures what it says; how fast anything is, no test asserts."""

import re

import pytest
import torch
import torch.nn.functional as F

from fercore.bench import released, step
from fercore.errors import UserError
from fercore.training import devices, loop, timing

CPU = torch.device("cpu")
TINY = {"size": 32, "narrow": 16, "slots": (8, 16), "batch": 2, "native": 24}


@pytest.fixture(scope="module")
def lines():
    return list(step.step(1, CPU, **TINY))


def of(lines, kind):
    """Name and value of every line of this kind."""
    found = [re.fullmatch(rf"{kind} +(.+?) +(\d+\.\d\d)( .*)?", line) for line in lines]
    return {match[1]: float(match[2]) for match in found if match}


def test_the_released_vote_is_the_largest_cosine_of_each_class():
    embedding, memory = (F.normalize(torch.randn(n, 8), dim=1) for n in (5, 40))
    labels = torch.arange(40) % 6  # nothing remembers class 6: its vote is the floor
    cosine = embedding @ memory.T
    of_class = [cosine.masked_fill(labels != c, 0.0).amax(1).clamp(min=0) for c in range(7)]
    torch.testing.assert_close(released.vote(embedding, memory, labels.tolist(), 7), torch.stack(of_class, 1))


def test_a_released_step_trains_and_overwrites_its_memory():
    run = step.training(8, size=32, native=24, batch=2, device=CPU)
    theirs = released.Released(run.views.labels.tolist(), 7, 1e-3, run.device)
    batch = loop.batch(run, 0)[0]
    weights, memory = theirs.classifier.weight.clone(), theirs.memory.clone()
    theirs.step(batch)
    assert not torch.equal(theirs.classifier.weight, weights)
    changed = (theirs.memory != memory).any(1).nonzero()[:, 0]
    assert changed.tolist() == sorted(batch.labelled_slots.tolist())


def test_the_memory_is_full_and_stays_full():
    run = step.training(8, size=32, native=24, batch=2, device=CPU)
    small = step.with_memory(run, 4)
    step.ours(small)(0)
    assert len(small.state.memory.valid) == 4 and small.state.memory.valid.all()
    assert len(run.state.memory.valid) == 8 and run.state.memory.valid.all()


def test_every_case_is_timed_in_every_round_and_the_first_does_not_count():
    seen = []
    cases = {name: lambda number, name=name: seen.append((number, name)) for name in "ab"}
    assert timing.medians(cases, 2, CPU).keys() == {"a", "b"}
    assert seen == [(number, name) for number in range(3) for name in "ab"]


def test_the_report_holds_every_case_and_ratio(lines):
    medians, ratios, rates = (of(lines, kind) for kind in ("median", "ratio", "rate"))
    assert {"step, K = 8", "step, K = 16", "step, the released way", "vote", "narrow, by columns"} <= medians.keys()
    assert rates.keys() == {f"{kind} views, {px} px" for kind in ("weak", "strong") for px in (32, 16)}
    assert len(ratios) == 4 and min([*ratios.values(), *medians.values(), *rates.values()]) > 0
    step = medians["step, K = 16"] / medians["step, the released way"]
    assert ratios["step, K = 16 / step, the released way"] == pytest.approx(step, abs=0.01)
    assert sum("target" in line for line in lines) == 3
    assert lines[-1] == "gpu    not run: no GPU"


def test_the_shares_make_a_whole(lines):
    shares = of(lines, "share")
    beyond = shares.pop("everything but convolutions")
    assert sum(shares.values()) == pytest.approx(100, abs=0.1)
    assert beyond == pytest.approx(100 - shares["convolutions"], abs=0.1)
    assert min(shares.values()) > 0


@pytest.mark.parametrize(
    "value, target, said",
    [
        (0.4, "<= 0.40", "reached"),
        (0.41, "<= 0.40", "missed"),
        (400.0, ">= 400", "reached"),
        (399.0, ">= 400", "missed"),
    ],
)
def test_a_target_is_reached_or_missed(value, target, said):
    assert step.line("ratio", "a / b", value, "", target).endswith(f"target {target}: {said}")


@pytest.mark.parametrize("has", [("amx_bf16", "avx512_bf16"), ("avx512_bf16",), ()])
def test_the_head_says_what_the_machine_multiplies_in(has, monkeypatch):
    monkeypatch.setattr(devices, "capabilities", lambda: {"avx2": True, **dict.fromkeys(has, True)})
    head = next(step.step(1, CPU, **TINY))
    assert f"; {' and '.join(has) or 'neither amx_bf16 nor avx512_bf16'}; " in head
    assert f"backbone in {'bf16' if has else 'fp32'}" in head


def test_no_round_is_an_error():
    with pytest.raises(UserError, match="at least one round"):
        next(step.step(0, CPU))
