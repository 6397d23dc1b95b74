"""The audit's step: SIT-FER at one end, at the other a loop form of the released arithmetic, each point in between.

The loop is written from the description of paper and code, with plain numbers: faces, slots, classes.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from trial import Trial

from fercore import augment
from fercore.encoders import ImageEncoder
from fercore.errors import UserError
from fercore.methods import audit, resolve
from fercore.methods.api import Batch, Context
from fercore.training import evaluate, loop

K, WIDTH, TEXT, SLOTS = 7, 16, 8, 60
LABELLED, UNLABELLED = 8, 20  # faces of a batch
OURS = {"t_text": 0.2, "t_instance": 0.1, "window": 3}
BEFORE, AFTER = 0.18, 0.19  # of the training: 15 epochs of 80 are 0.1875
ENDS = {"paper": ((), 8), "released": (audit.POINTS, 16)}  # points, and a classifier that is neither sure nor at a loss


def turned(code, point):
    """The points with this one turned over."""
    return tuple(name for name in audit.POINTS if (name in code) != (name == point))


# SIT-FER's end


def test_without_a_point_it_is_sitfer():
    ours, theirs = (Trial(name, lr=1e-2, tau=0.5, delta=0.52) for name in ("audit", "sitfer"))
    kept = admitted = 0
    for seed in range(6):
        one, two = ours.step(seed), theirs.step(seed)
        kept, admitted = kept + int(two.keep.sum()), admitted + int(theirs.state.memory.valid.sum()) - 9
        for name, loss in (two.losses | {"total": two.total}).items():
            assert torch.allclose((one.losses | {"total": one.total})[name], loss, atol=1e-5), name
        assert torch.allclose(one.target, two.target, atol=1e-5) and torch.equal(one.keep, two.keep)
        for (name, a), b in zip(ours.state.named_buffers(), theirs.state.buffers(), strict=True):
            assert torch.allclose(a.float(), b.float(), atol=1e-5), name
        one.total.backward()
        two.total.backward()
        for (name, a), b in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-4), name
        for trial in (ours, theirs):
            trial.optimisers["all"].step()
            trial.optimisers["all"].zero_grad()
    assert 0 < kept < 36 and admitted > 0


# The loop form


class Told(ImageEncoder):
    """An encoder that reads its feature, of either sign, in the first row of the image, and knows the classes."""

    def __init__(self, directions, sharpness, unit):
        super().__init__("toy", K, text_width=TEXT, unit=unit)
        self.classifier.weight.data = sharpness * directions

    def feature(self, images):
        return images[:, 0, 0]


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Scene:
    """A model, a memory that has a past, and a batch, from sure faces to doubtful ones.

    The memory has no slot of the last class.
    """

    def __init__(self, code, progress, sharpness, tau=0.65):
        self.code, self.progress = code, progress
        self.method, self.config = resolve("audit", {"code": list(code), "tau": tau, "delta": 0.86, **OURS})
        directions = F.normalize(drawn(K, WIDTH, seed=1), dim=1)
        self.model = Told(directions, sharpness, self.config.unit).eval()
        text = F.normalize(self.model.to_text(directions).detach(), dim=1)
        given, guessed = torch.arange(12), torch.arange(12, 30)  # ten of these come again in the batch
        context = Context(K, SLOTS, given, torch.arange(12, SLOTS), WIDTH, WIDTH, text, 0)
        self.state = self.method.state(context, self.config)
        rows = F.normalize(directions[torch.arange(30) % (K - 1)] + 0.3 * drawn(30, WIDTH, seed=2), dim=1)
        self.state.memory.write(given, rows[:12], given % (K - 1))
        self.state.memory.admit(guessed, rows[12:], guessed % (K - 1), guessed % 3 > 0)
        self.past = [drawn(5, K, seed=10 + i).softmax(1) for i in range(4)]
        for p in self.past:
            self.state.alignment(p)

        def faces(n, seed):
            doubt, length = torch.linspace(0.1, 0.6, n)[:, None], torch.linspace(0.7, 1.4, n).roll(n // 2)[:, None]
            f = length * (directions[torch.arange(n) % K] + doubt * drawn(n, WIDTH, seed=seed))
            return f[:, None, None].repeat(1, 3, 2, 1)

        labels, others = torch.arange(LABELLED) % K, 20 + torch.arange(UNLABELLED)
        weak, strong = (faces(UNLABELLED, seed) for seed in (4, 5))
        self.batch = Batch(
            faces(LABELLED, 3), labels, torch.arange(LABELLED), (weak,), (strong,), others, torch.tensor(progress),
            torch.Generator().manual_seed(6),
        )  # fmt: skip

    def step(self):
        """What the method makes of it: losses, target, keep, memory and the alignment's batch means."""
        step = self.method.step(self.model, self.batch, self.state, self.config)
        losses = {name: loss.item() for name, loss in (step.losses | {"total": step.total}).items()}
        return losses, step.target.tolist(), step.keep.tolist(), self.held(), self.state.alignment.means.tolist()

    def held(self):
        """The memory: slot -> (row, class)."""
        memory = self.state.memory
        return {
            slot: (memory.embedding[slot].tolist(), int(memory.label[slot].argmax()))
            for slot in range(SLOTS)
            if memory.valid[slot]
        }

    def loop(self):
        """The same from the description."""
        code, config, batch, held = self.code, self.config, self.batch, self.held()
        draws = torch.Generator().manual_seed(6)

        def seen(images):
            """(logits, unit feature) per face; by the code after a dropout of one half and to unit length."""
            stays = torch.rand(len(images), WIDTH, generator=draws).tolist() if "dropout" in code else None
            faces = []
            for i, f in enumerate(images[:, 0, 0].tolist()):
                if stays:
                    f = unit([2 * v if r >= 0.5 else 0.0 for v, r in zip(f, stays[i])])
                weight, bias = self.model.classifier.weight.tolist(), self.model.classifier.bias.tolist()
                faces.append(([dot(w, f) + b for w, b in zip(weight, bias)], unit(f)))
            return faces

        def by_text(z):
            t = 1.0 if "cosine" in code else config.t_text
            mapped = unit([dot(row, z) for row in self.model.to_text.weight.tolist()])
            return [dot(mapped, anchor) / t for anchor in self.state.text.tolist()]

        def by_memory(z):
            if "max" in code:
                score = [0.0] * K
                for m, y in held.values():
                    score[y] = max(score[y], dot(z, m))
                return score
            e = {slot: math.exp(dot(z, m) / config.t_instance) for slot, (m, _) in held.items()}
            p = [sum(v for slot, v in e.items() if held[slot][1] == k) / sum(e.values()) for k in range(K)]
            return [math.log(max(v, 1e-30)) for v in p]

        labelled, strong, weak = seen(batch.labelled), seen(batch.strong[0]), seen(batch.weak[0])
        labels, slots = batch.labels.tolist(), batch.labelled_slots.tolist()
        if "overwrite" in code:
            for slot, (_, z), y in zip(slots, labelled, labels):
                held[slot] = (z, y)
        target = []
        for logits, z in weak:
            scores = logits, by_text(z), by_memory(z)
            if "logits" in code:
                w = (0.6, 0.4, 0.0) if self.progress < 15 / 80 else (0.3, 0.2, 0.5)
                target.append(softmax([sum(a * s[k] for a, s in zip(w, scores)) for k in range(K)]))
            else:
                target.append([sum(softmax(s)[k] for s in scores) / 3 for k in range(K)])
        past = [column_means(p.tolist()) for p in self.past]
        if "unaligned" not in code:
            past.append(column_means(target))
            bar = [sum(c) for c in zip(*past[-config.window :])]
            target = [[v / b for v, b in zip(p, bar)] for p in target]
            target = [[v / sum(p) for v in p] for p in target]
        keep = [max(p) > (0.75 if "threshold" in code else config.tau) for p in target]
        each = []
        for (logits, _), p in zip(strong, target):
            q = [float(k == p.index(max(p))) for k in range(K)] if "hard" in code else p
            each.append(-sum(a * math.log(b) for a, b in zip(q, softmax(logits))))
        kept = [h for h, k in zip(each, keep) if k]
        losses = {
            "labelled": -sum(math.log(softmax(s)[y]) for (s, _), y in zip(labelled, labels)) / LABELLED,
            "text": -sum(math.log(softmax(by_text(z))[y]) for (_, z), y in zip(labelled, labels)) / LABELLED,
            "unlabelled": sum(kept) / (max(len(kept), 1) if "selected" in code else UNLABELLED),
        }
        weight = (0.4, 0.4, 0.2) if "weights" in code else (1.0, config.lambda_1, config.lambda_2)
        losses["total"] = sum(w * losses[name] for w, name in zip(weight, ("labelled", "text", "unlabelled")))
        if "overwrite" not in code:
            for slot, (_, z), y in zip(slots, labelled, labels):
                held[slot] = (mixed(held[slot][0], z, config.alpha), y)
        if "fixed" not in code:
            for slot, (_, z), p in zip(batch.unlabelled_slots.tolist(), weak, target):
                was, y = held.pop(slot, None), p.index(max(p))
                if max(p) > config.delta:
                    # What overwrites does so whatever it stores.
                    held[slot] = (mixed(was[0], z, config.alpha) if was and "overwrite" not in code else z, y)
        return losses, target, keep, held, past[-config.window :]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def unit(v):
    return [x / math.sqrt(dot(v, v)) for x in v]


def mixed(m, z, alpha):
    return unit([alpha * a + (1 - alpha) * b for a, b in zip(m, z)])


def softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def column_means(rows):
    return [sum(c) / len(rows) for c in zip(*rows)]


def same(one, two):
    """Whether two outcomes agree in everything."""
    losses, target, keep, held, means = zip(one, two)
    return (
        losses[0] == pytest.approx(losses[1], abs=1e-4)
        and np.allclose(*target, atol=1e-5)
        and keep[0] == keep[1]
        and held[0].keys() == held[1].keys()
        and all(held[0][slot][1] == held[1][slot][1] for slot in held[0])
        and all(np.allclose(held[0][slot][0], held[1][slot][0], atol=1e-5) for slot in held[0])
        and np.allclose(sorted(means[0]), sorted(means[1]), atol=1e-5)
    )


@pytest.mark.parametrize("progress", [BEFORE, AFTER])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("point", [None, *audit.POINTS])
def test_step_is_the_loop(end, point, progress):
    code, sharpness = ENDS[end]
    code = turned(code, point) if point else code
    expected = Scene(code, progress, sharpness).loop()
    assert same(Scene(code, progress, sharpness).step(), expected)
    # The loop looks at a mask of both kinds. Without its logits the code can be sure of nothing: see below.
    assert any(expected[2]) == ((end, point) != ("released", "logits")) and not all(expected[2])


@pytest.mark.parametrize("progress", [BEFORE, AFTER])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("point", audit.POINTS)
def test_every_point_bites(end, point, progress):
    code, sharpness = ENDS[end]
    one, two = (Scene(c, progress, sharpness).step() for c in (code, turned(code, point)))
    weightless = (end, point, progress) == ("released", "max", BEFORE)  # the memory has no weight yet
    assert same(one, two) == weightless


def test_fused_on_probabilities_the_code_is_never_sure():
    code = turned(audit.POINTS, "logits")
    for sharpness in (16, 1e4):
        confidence = [max(p) for p in Scene(code, AFTER, sharpness).step()[1]]
        # At most 1, e / (e + 6 / e) and e / (e + 6), a third of each.
        assert max(confidence) < (1 + 1 / (1 + 6 / math.e**2) + 1 / (1 + 6 / math.e)) / 3 < audit.THRESHOLD


@pytest.mark.parametrize(
    "progress, weights", [(0.0, (0.6, 0.4, 0.0)), (BEFORE, (0.6, 0.4, 0.0)), (15 / 80, (0.3, 0.2, 0.5))]
)
def test_the_second_schedule_begins_with_the_sixteenth_epoch(progress, weights):
    scene = Scene(("logits",), progress, 8)
    score = {name: drawn(5, K, seed=i) for i, name in enumerate(("semantic", "text", "instance"))}
    expected = sum(w * s for w, s in zip(weights, score.values())).softmax(1)
    assert torch.allclose(audit.fused(score, torch.tensor(progress), scene.config), expected)


def test_nothing_kept_is_a_loss_of_zero():
    scene = Scene(audit.POINTS, AFTER, 0.1)
    losses, _, keep, *_ = scene.step()
    assert not any(keep) and losses["unlabelled"] == 0
    assert losses["total"] == pytest.approx(0.4 * losses["labelled"] + 0.4 * losses["text"])


def test_unknown_point():
    with pytest.raises(UserError, match="options of audit: code: 'softmax' is no point of the audit; they are"):
        resolve("audit", {"code": ["max", "softmax"]})


# Dropout


def test_dropout_is_of_the_batch_and_of_nothing_else():
    def total(draws, noise=0):
        scene = Scene(("dropout",), AFTER, 8)
        torch.manual_seed(noise)
        return scene.method.step(
            scene.model, scene.batch._replace(generator=torch.Generator().manual_seed(draws)), scene.state, scene.config
        ).total

    assert torch.equal(total(1), total(1, noise=9)) and not torch.equal(total(1), total(2))
    before = torch.get_rng_state()
    Scene(("dropout",), AFTER, 8).step()
    assert torch.equal(before, torch.get_rng_state())


def test_views_are_dropped_apart_and_half_of_each():
    scene = Scene(("dropout",), AFTER, 8)
    one = scene.model(scene.batch.weak[0])
    first, second = (audit.dropped(scene.model, one, scene.batch, scene.config).embedding for _ in range(2))
    assert not torch.equal(first == 0, second == 0)
    assert (first == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.allclose(first.norm(dim=1), torch.ones(UNLABELLED), atol=1e-5)
    assert audit.dropped(scene.model, one, scene.batch, Scene((), AFTER, 8).config) is one


# Evaluation


def evaluated(code, toy_root):
    """A training after three steps, its two predictions of the test faces, and the images."""
    config = toy.config("audit", options={"code": list(code)}, text="released", ema=0.0)
    training = toy.set_up(config, toy_root)
    loop.prepare(training)
    for step in range(3):
        loop.train_step(training, step)
    rows = torch.from_numpy(training.data.test)
    images = augment.centre(training.views.images[rows], toy.SIZE)
    return training, evaluate.predict(training, rows), evaluate.predict(training, rows), images


@pytest.mark.parametrize("code", [(), ("dropout",), ("logits",), audit.POINTS])
def test_evaluation(code, toy_root):
    training, once, again, images = evaluated(code, toy_root)
    for one, two in zip(once, again):
        assert torch.equal(one, two)  # no dropout
    model, config, memory = training.ema.model, training.options, training.state.memory
    with torch.no_grad():
        feature = model.feature(images)
        z = F.normalize(feature, dim=1)
        logits = model.classifier(z if "dropout" in code else feature)
        cosine = F.normalize(model.to_text(feature), dim=1) @ training.state.text.T
        levels = logits.softmax(1), (cosine / (1.0 if "cosine" in code else config.t_text)).softmax(1)
        levels += ((memory.nearest(z).softmax(1) if "max" in code else memory.vote(z, config.t_instance)),)
    weights = (0.3, 0.2, 0.5) if "logits" in code else (1 / 3, 1 / 3, 1 / 3)
    assert torch.allclose(once[0], levels[0], atol=1e-5)
    assert torch.allclose(once[1], sum(w * p for w, p in zip(weights, levels)), atol=1e-5)
    assert not torch.allclose(z, feature, atol=0.1)
