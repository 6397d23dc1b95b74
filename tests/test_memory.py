"""Memory and centroids against loops: vote (6, 7), write (10), admission, and what neither may touch."""

import math

import pytest
import torch
import torch.nn.functional as F
from trial import Unordered

from fercore.memory import Centroids, InstanceMemory

SLOTS, WIDTH, CLASSES, ALPHA = 12, 6, 4, 0.7


def unit(n, seed=0):
    return F.normalize(torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1)


def filled(slots=(0, 2, 3, 5, 8, 11), labels=(1, 0, 1, 3, 1, 0), seed=0):
    memory = InstanceMemory(SLOTS, WIDTH, CLASSES, ALPHA)
    memory.write(torch.tensor(slots), unit(len(slots), seed), torch.tensor(labels))
    return memory


def vote_loop(memory, embedding, temperature):
    out = []
    for z in embedding.tolist():
        scores = {}
        for i in range(SLOTS):
            if memory.valid[i]:
                scores[i] = math.exp(sum(a * b for a, b in zip(z, memory.embedding[i].tolist())) / temperature)
        q = {i: score / sum(scores.values()) for i, score in scores.items()}  # (6)
        p = [0.0] * CLASSES
        for i, share in q.items():
            p[int(memory.label[i].argmax())] += share  # (7)
        out.append(p)
    return torch.tensor(out)


def test_vote_does_not_depend_on_the_order_of_the_slots():
    slots, labels = torch.tensor([0, 2, 3, 5, 8, 11]), torch.tensor([1, 0, 1, 3, 1, 0])
    order = torch.tensor([11, 5, 0, 8, 3, 2])
    one, two = (InstanceMemory(SLOTS, WIDTH, CLASSES, ALPHA) for _ in range(2))
    one.write(slots, unit(6), labels)
    two.write(order, unit(6), labels)
    assert torch.allclose(one.vote(unit(5, seed=1), 0.05), two.vote(unit(5, seed=1), 0.05), atol=1e-6)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("how", ["sum", "mean", "prior"])
def test_vote_of_an_empty_memory_is_uniform(how, inference):
    with torch.inference_mode(inference):
        p = InstanceMemory(SLOTS, WIDTH, CLASSES, ALPHA).vote(unit(3), 0.05, how)
    assert torch.equal(p, torch.full((3, CLASSES), 0.25))


# Other worths of a class's slots, and the released maximum


def grown(given=(1, 0, 1, 3), guessed=(1, 1, 0, 1, 1)):
    """A memory of given and of guessed labels; class 2 has none of either."""
    memory = filled(range(len(given)), given)
    slots = torch.arange(len(guessed)) + len(given)
    memory.admit(slots, unit(len(guessed), 3), torch.tensor(guessed), torch.ones(len(guessed), dtype=torch.bool))
    # What an empty slot holds must not matter.
    memory.embedding[~memory.valid] = 9.0
    memory.label[~memory.valid] = torch.eye(CLASSES)[2]
    memory.known[-1] = True
    return memory


@pytest.mark.parametrize("inference", [False, True])  # evaluation leaves the empty slots out
@pytest.mark.parametrize("how", ["sum", "mean", "prior"])
def test_worth_of_a_class_as_a_loop(how, inference):
    given, guessed = (1, 0, 1, 3), (1, 1, 0, 1, 1)
    with torch.inference_mode(inference):
        p = grown(given, guessed).vote(unit(5, seed=1), 0.1, how)
    summed = vote_loop(grown(given, guessed), unit(5, seed=1), 0.1).tolist()
    for row, ours in zip(summed, p.tolist()):
        there = [(*given, *guessed).count(k) for k in range(CLASSES)]
        worth = {"sum": [1] * CLASSES, "mean": [1 / max(n, 1) for n in there]}
        worth["prior"] = [given.count(k) / max(n, 1) for k, n in enumerate(there)]
        weighed = [v * w for v, w in zip(row, worth[how])]
        assert ours == pytest.approx([v / sum(weighed) for v in weighed], abs=1e-5)
        assert sum(ours) == pytest.approx(1, abs=1e-5) and ours[2] == 0


def test_worths_differ_once_the_memory_has_grown_and_not_before():
    z = unit(5, seed=1)
    sums, means, priors = (grown().vote(z, 0.1, how) for how in ("sum", "mean", "prior"))
    assert not torch.allclose(sums, priors, atol=1e-2) and not torch.allclose(means, priors, atol=1e-2)
    assert torch.allclose(filled().vote(z, 0.1), filled().vote(z, 0.1, "prior"), atol=1e-6)
    assert torch.equal(sums, grown().vote(z, 0.1))  # (7), unless told otherwise


@pytest.mark.parametrize("inference", [False, True])
def test_nearest_as_a_loop(inference):
    memory, z = grown(), unit(6, seed=1)
    expected = [[0.0] * CLASSES for _ in z]
    negative = False
    for score, row in zip(expected, z.tolist()):
        for i in range(SLOTS):
            if memory.valid[i]:
                k, cosine = int(memory.label[i].argmax()), sum(a * b for a, b in zip(row, memory.embedding[i].tolist()))
                score[k] = max(score[k], cosine)
                negative |= cosine < 0
    with torch.inference_mode(inference):
        ours = memory.nearest(z)
    assert torch.allclose(ours, torch.tensor(expected), atol=1e-6)
    assert negative and (ours[:, [0, 1, 3]] == 0).any()  # the floor is felt, and not only by the empty class
    assert torch.equal(InstanceMemory(SLOTS, WIDTH, CLASSES, ALPHA).nearest(z), torch.zeros(6, CLASSES))


@pytest.mark.parametrize("scale", [1.0, 1e-20, 0.0])
def test_unfold_as_a_loop(scale):
    # Slots of classes 1, 0, 1, 3; all of p lies in class 2, which has no slot, but for a share of `scale`.
    memory, q = filled(slots=range(SLOTS), labels=(1, 0, 1, 3) * 3), torch.rand(5, SLOTS).softmax(1)
    p = torch.tensor([[0.5, 0.2, 0.0, 0.3]]).expand(5, -1) * scale
    p = (p + (1 - scale) * F.one_hot(torch.tensor(2), CLASSES)).requires_grad_()
    unfolded = memory.unfold(q, p)
    for row, shares, of in zip(unfolded.tolist(), q.tolist(), p.tolist()):
        weights = [share * of[int(label.argmax())] for share, label in zip(shares, memory.label)]
        assert row == pytest.approx([w / sum(weights) if scale else 0.0 for w in weights], rel=1e-4)
    unfolded.square().sum().backward()
    assert p.grad.isfinite().all()


def test_write_as_a_loop():
    memory, z = filled(), unit(3, seed=2)
    before = memory.embedding.clone()
    memory.write(torch.tensor([2, 4, 11]), z, torch.tensor([0, 2, 0]))
    for slot, row in zip((2, 11), (z[0], z[2])):
        mixed = [ALPHA * m + (1 - ALPHA) * v for m, v in zip(before[slot].tolist(), row.tolist())]  # (10)
        assert memory.embedding[slot].tolist() == pytest.approx([v / math.hypot(*mixed) for v in mixed], abs=1e-6)
    assert torch.equal(memory.embedding[4], z[1])  # a new slot takes the embedding itself
    assert memory.label[4].tolist() == [0, 0, 1, 0] and memory.valid[4] and memory.known[4]
    untouched = [0, 1, 3, 5, 6, 7, 8, 9, 10]
    assert torch.equal(memory.embedding[untouched], before[untouched])
    assert memory.valid.sum() == 7


def test_rows_are_unit_vectors_whatever_happens():
    memory = filled()
    for seed in range(5):
        slots = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(seed))[:5]
        memory.write(slots[:2], unit(2, seed), torch.tensor([0, 1]))
        memory.admit(slots[2:], unit(3, seed + 9), torch.tensor([1, 2, 3]), torch.tensor([True, False, True]))
    assert torch.allclose(memory.embedding[memory.valid].norm(dim=1), torch.ones(int(memory.valid.sum())), atol=1e-6)


def test_of_a_slot_that_occurs_twice_the_last_row_counts():
    once, twice, z = filled(), filled(), unit(4, seed=3)
    twice.write(torch.tensor([2, 7, 2, 2]), z, torch.tensor([0, 1, 0, 3]))
    once.write(torch.tensor([7, 2]), z[[1, 3]], torch.tensor([1, 3]))
    for one, two in zip(once.buffers(), twice.buffers()):
        assert torch.equal(one, two)


@pytest.mark.parametrize("keep, valid", [((True, False), False), ((False, True), True)])
def test_of_a_slot_that_is_admitted_twice_the_last_row_counts(keep, valid):
    memory, z = filled(), unit(2, seed=3)
    for name, buffer in list(memory.named_buffers()):
        setattr(memory, name, buffer.as_subclass(Unordered))
    memory.admit(torch.tensor([7, 7]), z, torch.tensor([1, 2]), torch.tensor(keep))
    memory.write(torch.tensor([1, 1]), z, torch.tensor([1, 2]))
    assert bool(memory.valid[7]) == valid and memory.valid[1]
    assert torch.equal(memory.embedding[7], z[1]) and memory.label[7].argmax() == 2


def test_confident_faces_enter_and_leave():
    memory, z = filled(), unit(2, seed=4)
    slots, labels = torch.tensor([1, 9]), torch.tensor([2, 2])
    memory.admit(slots, z, labels, torch.tensor([True, False]))
    assert memory.valid[slots].tolist() == [True, False] and not memory.known[slots].any()
    assert torch.allclose(memory.vote(z, 0.05), vote_loop(memory, z, 0.05), atol=1e-5)
    memory.admit(slots, z, labels, torch.tensor([False, True]))
    assert memory.valid[slots].tolist() == [False, True]
    # One that comes back starts anew: nothing of what it was before is mixed in.
    later = unit(2, seed=5)
    memory.admit(slots, later, torch.tensor([0, 0]), torch.tensor([True, True]))
    assert torch.equal(memory.embedding[1], later[0]) and memory.label[1].argmax() == 0
    mixed = F.normalize(ALPHA * z[1] + (1 - ALPHA) * later[1], dim=0)
    assert torch.allclose(memory.embedding[9], mixed, atol=1e-6)


@pytest.mark.parametrize("keep", [True, False])
def test_a_given_label_is_not_touched_by_a_guess(keep):
    memory = filled()
    before = [buffer.clone() for buffer in memory.buffers()]
    memory.admit(torch.tensor([2, 5]), unit(2, seed=6), torch.tensor([3, 3]), torch.tensor([keep, keep]))
    for old, new in zip(before, memory.buffers()):
        assert torch.allclose(old.float(), new.float(), atol=1e-6)


def test_no_gradient_is_stored():
    memory, z = filled(), unit(2, seed=7).requires_grad_()
    memory.write(torch.tensor([0, 1]), z * 1.0, torch.tensor([0, 1]))
    memory.admit(torch.tensor([6, 7]), z * 1.0, torch.tensor([0, 1]), torch.tensor([True, True]))
    assert not any(buffer.requires_grad for buffer in memory.buffers())


def test_memory_resumes_from_its_state_dict():
    one, two = filled(), InstanceMemory(SLOTS, WIDTH, CLASSES, ALPHA)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.vote(unit(3, seed=8), 0.05), two.vote(unit(3, seed=8), 0.05))


# Centroids


def mean_of(embedding, labels, name):
    rows = [e for e, label in zip(embedding.tolist(), labels) if label == name]
    return [sum(column) / len(rows) for column in zip(*rows)]


def to_unit(v):
    return [x / math.hypot(*v) for x in v]


def test_centroids_as_a_loop():
    centroids, labels = Centroids(CLASSES, WIDTH, 0.9), [0, 1, 1, 3, 0, 2, 1]
    centroids.begin(unit(7), torch.tensor(labels))
    expected = [to_unit(mean_of(unit(7), labels, k)) for k in range(CLASSES)]
    assert centroids.rows.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]
    for seed, labels in ((1, [1, 1, 3]), (2, [0, 2, 0])):  # a class that is not in the batch stays
        centroids.move(unit(3, seed), torch.tensor(labels))
        for k in set(labels):
            batch = mean_of(unit(3, seed), labels, k)
            expected[k] = to_unit([0.9 * c + 0.1 * e for c, e in zip(expected[k], batch)])
        assert centroids.rows.tolist() == [pytest.approx(row, abs=1e-6) for row in expected]


def test_distance_to_the_centroids_as_a_loop():
    centroids = Centroids(CLASSES, WIDTH, 0.9)
    centroids.begin(unit(4), torch.arange(4))
    embedding = 0.8 * unit(3, 5)  # the mean of two unit rows is shorter than one
    for e, row in zip(embedding.tolist(), centroids(embedding).tolist()):
        expected = [sum((a - b) ** 2 for a, b in zip(e, c)) for c in centroids.rows.tolist()]
        assert row == pytest.approx(expected, abs=1e-5)


def test_centroids_take_no_gradient_and_move_after_the_loss_was_made():
    centroids, embedding = Centroids(CLASSES, WIDTH, 0.9), unit(4, 5).requires_grad_()
    centroids.begin(unit(4), torch.arange(4))
    at = centroids.rows.clone()
    loss = centroids(embedding).sum()
    centroids.move(embedding * 1.0, torch.arange(4))
    assert not centroids.rows.requires_grad and not torch.equal(centroids.rows, at)
    loss.backward()
    assert torch.allclose(embedding.grad, 2 * (CLASSES * embedding.detach() - at.sum(0)), atol=1e-5)
