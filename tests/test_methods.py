"""The contract of style.md, point 10, for every method and every variant in the registry."""

import copy
from dataclasses import fields

import pytest
import torch
from trial import K, Trial, faces

from fercore.errors import UserError
from fercore.methods import METHODS, register, resolve
from fercore.methods.api import Step

NAMES = [
    name if variant is None else f"{name}/{variant}"
    for name, module in METHODS.items()
    for variant in (None, *getattr(module, "VARIANTS", {}))
]
LEARN_FROM_WEAK = {"pseudolabel", "mixmatch", "remixmatch", "marginmix", "adacm"}  # the others' weak views only teach
# What makes every face enter the loss, and what makes the labelled loss the plain one.
ALL_KEPT = {"adacm": {"floor": 0.0, "beta": 0.0}, "lion": {"floor": 0.0, "beta": 0.0}}
PLAIN = {"audit": {"code": []}, "uda": {"signal": "none"}, "adacm": {"lambda_s": 1.0}, "lion": {"lambda_s": 1.0}}
PLAIN |= {name: {"alpha": 0.0} for name in ("mixmatch", "remixmatch", "marginmix")}


def base(name):
    """The method of "method/variant"."""
    return name.partition("/")[0]


def all_kept(name):
    """Options under which every unlabelled face enters the loss."""
    known = {f.name for f in fields(METHODS[base(name)].Config)}
    return ({"tau": 0.0} if "tau" in known else {}) | ALL_KEPT.get(base(name), {})


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_and_reaches_the_encoder(name):
    trial = Trial(name)
    step = trial.step()
    assert step.total.isfinite() and step.total.ndim == 0 and "labelled" in step.losses
    assert all(loss.isfinite() for loss in step.losses.values())
    step.total.backward()
    first = trial.model.backbone[0].weight.grad
    assert first is not None and first.isfinite().all() and first.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_flows_through_a_pseudo_label(name):
    trial = Trial(name, **all_kept(name))
    batch = trial.batch()
    inputs = batch.weak + batch.strong
    for view in inputs:
        view.requires_grad_()
    step = trial.step(batch=batch)
    for tensor in (step.target, step.keep, *step.levels.values()):
        assert tensor is None or not tensor.requires_grad
    step.total.backward()
    assert base(name) in LEARN_FROM_WEAK or all(view.grad is None for view in batch.weak)
    assert all(view.grad.abs().sum() > 0 for view in batch.strong)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_step_returns_fits_together(name):
    trial = Trial(name)
    step = trial.step()
    assert isinstance(step, Step)
    if not any(trial.asks.values()):
        assert step.target is None and step.keep is None and not step.levels
        return
    assert step.target.shape == (6, K) and step.keep.shape == (6,) and step.keep.dtype == torch.bool
    for p in (step.target, *step.levels.values()):
        assert torch.allclose(p.sum(1), torch.ones(6), atol=1e-5) and p.min() >= 0


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip_gives_the_same_next_loss(name):
    one, two = Trial(name), Trial(name)
    optimiser = one.optimiser(1e-3)
    for seed in range(3):
        one.step(seed).total.backward()
        optimiser.step(1e-3)
    two.model.load_state_dict(copy.deepcopy(one.model.state_dict()))
    two.state.load_state_dict(copy.deepcopy(one.state.state_dict()))
    assert torch.equal(one.step(7).total, two.step(7).total)
    for a, b in zip(one.state.buffers(), two.state.buffers()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_ten_steps_lower_the_labelled_loss(name):
    trial = Trial(name)
    optimiser = trial.optimiser(1e-2)
    losses = []
    for _ in range(11):
        step = trial.step(batch=trial.batch(progress=0.0))  # the first ten steps: ramps have not begun
        losses.append(step.losses["labelled"].item())
        step.total.backward()
        optimiser.step(1e-2)
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize("name", NAMES)
def test_without_unsupervised_weights_the_step_is_the_supervised_one(name):
    weights = [f.name for f in fields(METHODS[base(name)].Config) if f.name.startswith("lambda")]
    assert weights or base(name) in ("supervised", "fullysupervised")
    options = dict.fromkeys(weights, 0.0) | all_kept(name) | PLAIN.get(base(name), {})  # kept, and weighing nothing
    gradients = []
    for trial in (Trial(name, **options), Trial("supervised")):
        trial.model.eval()  # in training mode the normalisation would see the other views
        step = trial.step()
        step.total.backward()
        parameters = {k: p for k, p in trial.model.named_parameters() if not k.startswith(("to_text", "project"))}
        gradients.append((step.total.detach(), {k: p.grad for k, p in parameters.items()}))
    (one, ours), (two, theirs) = gradients
    assert torch.allclose(one, two, atol=1e-6)
    assert set(ours) == set(theirs)
    for key, gradient in ours.items():
        assert torch.allclose(gradient, theirs[key], atol=1e-6), key


@pytest.mark.parametrize("name", NAMES)
def test_second_prediction_is_a_distribution(name):
    trial = Trial(name)
    if not hasattr(trial.method, "levels"):
        return
    trial.model.eval()
    with torch.no_grad():
        levels = trial.method.levels(trial.model, trial.model(faces(4, 5)[0]), trial.state, trial.config)
    assert tuple(levels) == trial.config.levels
    for p in levels.values():
        assert p.shape == (4, K) and torch.allclose(p.sum(1), torch.ones(4), atol=1e-5)


# SIT-FER


def between(name, *ranks):
    """Thresholds that part the confidences of a first batch after so many faces."""
    trial = Trial(name)
    trial.model.eval()
    sure = trial.step().target.max(1)[0].sort()[0]
    return [((sure[rank - 1] + sure[rank]) / 2).item() for rank in ranks]


def test_sitfer_step_as_its_equations_say():
    tau, delta = between("sitfer", 2, 4)
    trial = Trial("sitfer", tau=tau, delta=delta)
    trial.model.eval()
    memory_before, batch = copy.deepcopy(trial.state.memory), trial.batch()
    step = trial.step(batch=batch)
    config, text = trial.config, trial.state.text
    with torch.no_grad():
        labelled, weak, strong = (trial.model(x) for x in (batch.labelled, batch.weak[0], batch.strong[0]))

        def by_text(feature):
            f = torch.nn.functional.normalize(trial.model.to_text(feature), dim=1)
            return (f @ text.T / config.t_text).softmax(1)

        fused = (weak.logits.softmax(1) + by_text(weak.feature) + memory_before.vote(weak.embedding, 0.05)) / 3  # (8)
        target = fused / fused.mean(0)
        target = target / target.sum(1, keepdim=True)
        loss_s = loss_t = loss_u = 0.0
        for i, label in enumerate(batch.labels.tolist()):
            loss_s -= labelled.logits.log_softmax(1)[i, label].item() / 6  # (1)
            loss_t -= by_text(labelled.feature)[i, label].log().item() / 6  # (4)
            if target[i].max() > tau:
                loss_u -= (target[i] * strong.logits[i].log_softmax(0)).sum().item() / 6  # (9)
    assert torch.allclose(step.target, target, atol=1e-5)
    assert step.losses["unlabelled"].item() == pytest.approx(loss_u, rel=1e-4)
    assert step.losses["text"].item() == pytest.approx(loss_t, rel=1e-4)
    assert step.total.item() == pytest.approx(loss_s + 1.0 * loss_t + 0.5 * loss_u, rel=1e-4)  # (11)
    # The vote was cast before this batch entered the memory.
    admitted = trial.state.memory.valid[batch.unlabelled_slots]
    assert torch.equal(admitted, target.max(1)[0] > delta) and admitted.sum() == 2 and step.keep.sum() == 4


def test_sitfer_variants_are_table_ii():
    expected = {
        "sitfer/semantic": (("semantic",), False),
        "sitfer/text": (("semantic", "text"), False),
        "sitfer/instance": (("semantic", "text", "instance"), False),
        "sitfer": (("semantic", "text", "instance"), True),
    }
    for name, (levels, with_l_t) in expected.items():
        step = Trial(name).step()
        assert tuple(step.levels) == levels and ("text" in step.losses) == with_l_t, name


def test_without_a_level_its_parts_are_not_touched():
    trial = Trial("sitfer/semantic")
    trial.step()
    assert "text" not in trial.state.state_dict()  # no prompt table is asked for
    assert trial.state.memory.valid.sum() == 9  # as `prepare` left it: nothing admitted


def test_labels_weigh_the_text_loss_towards_their_anchor():
    trial = Trial("sitfer")
    batch = trial.batch()
    wrong = batch._replace(labels=(batch.labels + 1) % K)
    optimiser = trial.optimiser(1e-2)
    for _ in range(10):
        trial.step(batch=batch).total.backward()
        optimiser.step(1e-2)
    assert trial.step(batch=batch).losses["text"] < trial.step(batch=wrong).losses["text"]


# FixMatch


def test_fixmatch_keeps_what_it_is_sure_of_and_takes_it_as_hard():
    (tau,) = between("fixmatch", 2)
    trial = Trial("fixmatch", tau=tau)
    trial.model.eval()
    batch = trial.batch()
    step = trial.step(batch=batch)
    with torch.no_grad():
        q = trial.model(batch.weak[0]).logits.softmax(1)
        log_p = trial.model(batch.strong[0]).logits.log_softmax(1)
    loss = 0.0
    for u in range(6):
        if q[u].max() >= tau:
            loss -= log_p[u, q[u].argmax()].item() / 6
    assert torch.allclose(step.target, q) and step.keep.sum() == 4
    assert step.losses["unlabelled"].item() == pytest.approx(loss, rel=1e-4)


# The registry


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("sitfre", {}, r"'sitfre' is unknown; choose one of .*sitfer"),
        ("sitfer/semantik", {}, r"no variant 'semantik'; it has semantic"),
        ("supervised/semantic", {}, r"no variant 'semantic'; it has none"),
        ("sitfer", {"taw": 0.5}, r"options of sitfer: unknown taw; known are .*tau"),
        ("sitfer", {"tau": "0.5"}, r"options of sitfer: tau: expected a number, got '0.5'"),
        ("sitfer", {"levels": ["semantics"]}, r"options of sitfer: levels: .*expected one or more of semantic"),
        ("sitfer", {"levels": []}, r"options of sitfer: levels"),
        ("uda", {"signal": "slow"}, r"options of uda: signal: 'slow'; expected one of none, linear, exp, log"),
        ("lion", {"lambda_c": 0.1}, r"options of lion: unknown lambda_c; known are .*lambda_n"),  # it has no contrast
    ],
)
def test_bad_method(name, options, message):
    with pytest.raises(UserError, match=message):
        resolve(name, options)


def test_options_stand_on_top_of_the_variant():
    _, config = resolve("sitfer/semantic", {"tau": 1, "lambda_1": 0.5})
    assert config.levels == ("semantic",) and config.lambda_1 == 0.5
    assert config.tau == 1.0 and type(config.tau) is float


def test_a_method_from_outside_is_registered_once_it_is_whole(monkeypatch):
    monkeypatch.setattr("fercore.methods.METHODS", dict(METHODS))
    fixmatch = METHODS["fixmatch"]
    parts = {"Config": fixmatch.Config, "VIEWS": fixmatch.VIEWS, "step": fixmatch.step}
    register("mine", **parts)
    register("mine", **parts)  # a cell that is run twice
    module, config = resolve("mine", {"tau": 0.5})
    assert module.step is fixmatch.step and config.tau == 0.5
    with pytest.raises(UserError, match="method other: VIEWS missing"):
        register("other", Config=fixmatch.Config, step=fixmatch.step)
    with pytest.raises(UserError, match="fixmatch: this name is taken"):
        register("fixmatch", **parts)
