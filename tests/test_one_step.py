"""The stored step: what is read back gives the model's own levels, and the identities that the notebook shows hold."""

import numpy as np
import pytest
import torch

from fercore import fusion
from fercore.analysis import one_step
from fercore.fusion import fuse

TINY = one_step.settings(3, labels=14, image_size=16, text="onehot", dataset_options={"n": 70, "test": 21})


@pytest.fixture(scope="module")
def made():
    return one_step.make(TINY, progress=False)


def test_read_back_it_is_the_same_step(made, tmp_path):
    one_step.write(tmp_path / "one_step.npz", made)
    stored = one_step.read(tmp_path / "one_step.npz")
    assert (stored.config, stored.classes, stored.provenance) == (made.config, made.classes, made.provenance)
    for name, tensor in made.tensors.items():
        assert stored.tensors[name].dtype == tensor.dtype
        assert torch.allclose(stored.tensors[name].double(), tensor.double(), atol=5e-3), name
    for level, p in one_step.levels(stored).items():
        assert torch.allclose(p, one_step.levels(made)[level], atol=2e-2), level
        assert torch.allclose(p.sum(1), torch.ones(8))


def test_a_stored_step_is_made_once(made, tmp_path, monkeypatch):
    one_step.write(tmp_path / "one_step.npz", made)
    monkeypatch.setattr(one_step, "make", lambda *_: pytest.fail("made again"))
    assert one_step.complete(tmp_path, TINY).config == TINY


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"not a zip", lambda b: b""])
def test_a_damaged_file_is_made_again(made, tmp_path, monkeypatch, spoil):
    path = tmp_path / "one_step.npz"
    one_step.write(path, made)
    path.write_bytes(spoil(path.read_bytes()))
    assert one_step.read(path) is None
    monkeypatch.setattr(one_step, "make", lambda *_: made)
    assert one_step.complete(tmp_path, TINY).config == TINY
    assert [p.name for p in tmp_path.iterdir()] == ["one_step.npz"]


def test_faces_are_ordered_from_agreement_to_divergence(made):
    order = fusion.divergence(one_step.levels(made))
    assert (order.diff() >= -1e-6).all() and (order >= 0).all()


def test_fusing_adds_exactly_the_divergence():
    p = {name: torch.rand(5, 7, dtype=torch.float64).softmax(1) for name in ("semantic", "text", "instance")}
    p["semantic"][0] = p["text"][0] = p["instance"][0]
    alone = sum(fusion.entropy(level) for level in p.values()) / 3
    assert torch.allclose(fusion.entropy(fuse(dict(p))), alone + fusion.divergence(p))
    assert fusion.divergence(p)[0] == pytest.approx(0) and (fusion.divergence(p)[1:] > 0).all()
    assert torch.equal(fusion.divergence(p | {"fused": fuse(dict(p))}), fusion.divergence(p))


def test_the_memory_has_the_stored_slots_and_room_for_the_shown(made):
    memory = one_step.memory(made)
    assert memory.valid.sum() == len(made.tensors["memory"]) and len(memory.valid) == memory.valid.sum() + 8
    assert torch.allclose(memory.embedding[memory.valid].norm(dim=1), torch.ones(int(memory.valid.sum())), atol=1e-3)


def test_pictures_and_decisions(made):
    for images in one_step.pictures(made).values():
        assert images.shape == (8, 16, 16, 3) and images.dtype == np.uint8
    target, keep = one_step.decide(made, one_step.levels(made)["fused"])
    assert torch.allclose(target.sum(1), torch.ones(8)) and keep.dtype == torch.bool
    table = one_step.decision_table(target, keep, made.tensors["truth"], made.classes)
    assert table["pseudo-label"].tolist() == [made.classes[c] for c in target.argmax(1)]
    assert (table["kept"] == "yes").tolist() == keep.tolist()
    assert ((table["true"] == table["pseudo-label"]) == (table["right"] == "yes")).all()


def test_what_is_said_of_the_training_before(made):
    assert one_step.story(made).startswith("3 steps of sitfer on rendered faces, 14 labels, 16 px")
    assert one_step.record(made)["config"] == TINY.to_dict()


def test_table_of_faces_and_shapes():
    levels = {"semantic": torch.tensor([[0.9, 0.1], [0.5, 0.5]]), "text": torch.tensor([[0.9, 0.1], [0.2, 0.8]])}
    frame = one_step.face_table(levels, torch.tensor([1, 0]), ("a", "b"))
    assert frame["face"].tolist() == [0, 1] and frame["true"].tolist() == ["b", "a"]
    assert frame["text"].tolist() == ["a 90", "b 80"]
    assert frame["H semantic"].tolist() == pytest.approx([0.325, 0.693], abs=1e-3)
    assert abs(frame["divergence"][0]) < 1e-6 < frame["divergence"][1]
    shapes = one_step.shapes(p=levels["semantic"], loss=torch.tensor(2.0))
    assert shapes["shape"].tolist() == ["2 x 2", "one number"] and shapes["most"].tolist() == pytest.approx([0.9, 2])


def test_smoothing_by_halves():
    """Where both agree nothing is added; where they differ, log 2 to the entropy of two certain levels."""
    levels = {"semantic": torch.eye(3)[[0, 1]], "text": torch.eye(3)[[0, 2]]}
    table = one_step.smoothing(levels | {"fused": fuse(dict(levels))})
    assert table["faces"].tolist() == [1, 1]
    assert table["H fused"].tolist() == pytest.approx([0, 0.6931], abs=1e-3)
    assert table["H of the levels"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert table["largest (%)"].tolist() == pytest.approx([100, 50])
