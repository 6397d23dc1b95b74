"""The stored step: what is read back gives the model's own levels, and the identities that the notebook shows hold."""

import numpy as np
import pytest
import torch

from fercore.fusion import fuse
from fercore.pages import closeup, report

TINY = closeup.settings(3, labels=14, image_size=16, text="onehot", dataset_options={"n": 70, "test": 21})


@pytest.fixture(scope="module")
def made():
    return closeup.make(TINY, progress=False)


def test_read_back_it_is_the_same_step(made, tmp_path):
    closeup.write(tmp_path / "one_step.npz", made)
    stored = closeup.read(tmp_path / "one_step.npz")
    assert (stored.config, stored.classes, stored.provenance) == (made.config, made.classes, made.provenance)
    for name, tensor in made.tensors.items():
        assert stored.tensors[name].dtype == tensor.dtype
        assert torch.allclose(stored.tensors[name].double(), tensor.double(), atol=5e-3), name
    for level, p in closeup.levels(stored).items():
        assert torch.allclose(p, closeup.levels(made)[level], atol=2e-2), level
        assert torch.allclose(p.sum(1), torch.ones(8))


def test_a_stored_step_is_made_once(made, tmp_path, monkeypatch):
    closeup.write(tmp_path / "one_step.npz", made)
    monkeypatch.setattr(closeup, "make", lambda *_: pytest.fail("made again"))
    assert closeup.complete(tmp_path, TINY).config == TINY


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"not a zip", lambda b: b""])
def test_a_damaged_file_is_made_again(made, tmp_path, monkeypatch, spoil):
    path = tmp_path / "one_step.npz"
    closeup.write(path, made)
    path.write_bytes(spoil(path.read_bytes()))
    assert closeup.read(path) is None
    monkeypatch.setattr(closeup, "make", lambda *_: made)
    assert closeup.complete(tmp_path, TINY).config == TINY
    assert [p.name for p in tmp_path.iterdir()] == ["one_step.npz"]


def test_faces_are_ordered_from_agreement_to_divergence(made):
    order = closeup.divergence(closeup.levels(made))
    assert (order.diff() >= -1e-6).all() and (order >= 0).all()


def test_fusing_adds_exactly_the_divergence():
    p = {name: torch.rand(5, 7, dtype=torch.float64).softmax(1) for name in ("semantic", "text", "instance")}
    p["semantic"][0] = p["text"][0] = p["instance"][0]
    alone = sum(closeup.entropy(level) for level in p.values()) / 3
    assert torch.allclose(closeup.entropy(fuse(dict(p))), alone + closeup.divergence(p))
    assert closeup.divergence(p)[0] == pytest.approx(0) and (closeup.divergence(p)[1:] > 0).all()
    assert torch.equal(closeup.divergence(p | {"fused": fuse(dict(p))}), closeup.divergence(p))


def test_the_memory_has_the_stored_slots_and_room_for_the_shown(made):
    memory = closeup.memory(made)
    assert memory.valid.sum() == len(made.tensors["memory"]) and len(memory.valid) == memory.valid.sum() + 8
    assert torch.allclose(memory.embedding[memory.valid].norm(dim=1), torch.ones(int(memory.valid.sum())), atol=1e-3)


def test_pictures_and_sentences(made):
    for images in closeup.pictures(made).values():
        assert images.shape == (8, 16, 16, 3) and images.dtype == np.uint8
    assert "3 steps of sitfer" in closeup.story(made)
    assert "agree most (4 faces)" in report.smoothing(closeup.levels(made))
    target, keep = closeup.decide(made, closeup.levels(made)["fused"])
    assert torch.allclose(target.sum(1), torch.ones(8)) and keep.dtype == torch.bool
    assert report.decision_table(target, keep, made.tensors["truth"], made.classes).shape == (8, 6)
