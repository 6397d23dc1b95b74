"""Encoders, the narrow convolution, Adam over views, and where the weights start from."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fercore import convolution
from fercore.encoders import BACKBONES, ImageEncoder, backbone
from fercore.errors import UserError
from fercore.training import pretrained
from fercore.training.optimisers import Adam


def images(b=4, size=24, seed=0):
    x = torch.randn(b, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


# The narrow convolution


@pytest.mark.parametrize("kernel, padding", [(1, 0), (3, 0), (3, 1), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", [(3, 3), (4, 4), (5, 5), (3, 4), (7, 4)])
def test_by_columns_equals_the_library(kernel, padding, stride, height, width):
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 6, kernel, stride, padding, bias=False).to(memory_format=torch.channels_last)
    narrow = convolution.by_columns(nn.Sequential(copy.deepcopy(plain)))[0]
    assert type(narrow) is convolution.Conv2d
    one = torch.randn(3, 5, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
    two = one.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    expected, got = plain(one), narrow(two)
    assert torch.allclose(got, expected, atol=1e-5)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    assert torch.allclose(two.grad, one.grad, atol=1e-4)
    assert torch.allclose(narrow.weight.grad, plain.weight.grad, atol=1e-4)


def test_by_columns_on_a_map_of_one_pixel():
    # What is left of a 24-pixel face in the last stage of a ResNet: only the kernel's centre meets it.
    layer = convolution.by_columns(nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, bias=False)))[0]
    x = torch.randn(2, 4, 1, 1)
    assert torch.allclose(layer(x)[:, :, 0, 0], x[:, :, 0, 0] @ layer.weight[:, :, 1, 1].T, atol=1e-6)


def test_by_columns_is_taken_on_narrow_maps_only(monkeypatch):
    calls = []
    inner = convolution.ByColumns.apply
    monkeypatch.setattr(convolution.ByColumns, "apply", lambda *args: calls.append(args[0].shape) or inner(*args))
    layer = convolution.by_columns(nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, bias=False)))[0]
    layer(torch.randn(2, 3, convolution.WIDEST + 1, convolution.WIDEST + 1))
    assert not calls
    layer(torch.randn(2, 3, convolution.WIDEST, convolution.WIDEST))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, bias=False),
        nn.Conv2d(4, 4, (1, 3), bias=False),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False),
        nn.Conv2d(4, 4, 3, padding=1),
    ],
)
def test_other_convolutions_give_what_they_gave(layer):
    x = torch.randn(2, 4, 5, 5)
    expected = layer(x)
    assert torch.allclose(convolution.by_columns(nn.Sequential(layer))(x), expected, atol=1e-5)


def test_by_columns_keeps_parameters_and_their_names():
    build, _ = BACKBONES["wrn28_2"]
    plain = build()
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    after = convolution.by_columns(plain).state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


# Encoders


@pytest.mark.parametrize("name, width", [("resnet18", 512), ("resnet50", 2048), ("wrn28_2", 128), ("toy", 16)])
def test_encoder_shapes(name, width):
    model = ImageEncoder(name, 7).eval()
    with torch.no_grad():
        output = model(images(2, 32))
    assert output.logits.shape == (2, 7) and output.feature.shape == (2, width)
    assert output.embedding.shape == (2, width) == (2, model.embedding_width)
    assert torch.allclose(output.embedding.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(output.embedding, nn.functional.normalize(output.feature, dim=1))


def test_unknown_encoder():
    with pytest.raises(UserError, match=r"resnet19.*resnet18"):
        backbone("resnet19")


def test_wide_resnet_is_28_layers_deep_and_2_wide():
    network, _ = backbone("wrn28_2")
    main = [m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n]
    assert len(main) == 25  # and the classifier, and by custom the shortcuts of three groups
    assert sorted({m.out_channels for m in main}) == [16, 32, 64, 128]
    assert network[:-3](images(1, 48)).shape == (1, 128, 12, 12)


def test_embedding_of_a_projection():
    model = ImageEncoder("toy", 3, projection=5)
    assert model.embedding_width == 5 and model(images()).embedding.shape == (4, 5)


def test_text_map_only_where_the_widths_differ():
    assert isinstance(ImageEncoder("toy", 3, text_width=16).to_text, nn.Identity)
    assert ImageEncoder("toy", 3, text_width=512).to_text(torch.ones(2, 16)).shape == (2, 512)


def test_an_added_part_leaves_the_others_start_as_it_was():
    plain = ImageEncoder("toy", 3, seed=4).state_dict()
    more = ImageEncoder("toy", 3, seed=4, text_width=512, projection=8).state_dict()
    head = ImageEncoder("toy", 3, seed=4, projection=8).state_dict()
    for fewer in (plain, head):
        assert set(fewer) < set(more) and all(torch.equal(fewer[k], more[k]) for k in fewer)
    other = ImageEncoder("toy", 3, seed=5).state_dict()
    assert not torch.equal(plain["backbone.0.weight"], other["backbone.0.weight"])


def test_making_an_encoder_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    ImageEncoder("toy", 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_together_is_one_joint_batch():
    model, (a, b) = ImageEncoder("toy", 3).train(), (images(3), images(5, seed=1))
    joint = copy.deepcopy(model)(torch.cat([a, b]))
    first, second = model.joint_forward(a, b)
    for whole, one, two in zip(joint, first, second):
        assert torch.equal(whole, torch.cat([one, two])) and len(one) == 3
    assert model.backbone[1].num_batches_tracked == 1  # one statistic, not one per view


def test_bf16_leaves_the_classifier_in_fp32():
    model = ImageEncoder("toy", 3, bf16=True).eval()
    output = model(images())
    assert {part.dtype for part in output} == {torch.float32}
    exact = ImageEncoder("toy", 3).eval()(images())
    assert torch.allclose(output.logits, exact.logits, atol=0.05) and not torch.equal(output.logits, exact.logits)


# Adam


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_equals_torch(weight_decay):
    ours, theirs = (ImageEncoder("toy", 3, text_width=512) for _ in range(2))
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    reference = kind(theirs.parameters(), lr=1.0, weight_decay=weight_decay)
    optimiser = Adam(ours.parameters(), lr=1.0, weight_decay=weight_decay)
    for step, lr in enumerate((0.01, 0.02, 0.005)):
        reference.param_groups[0]["lr"] = lr
        for model in (ours, theirs):
            model(images(seed=step)).logits.square().sum().backward()
        optimiser.step(lr)
        reference.step()
        reference.zero_grad()
        assert all(p.grad is None for p in ours.parameters())  # dropped: the next step does not add to them
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
            assert torch.allclose(a, b, atol=1e-5), (step, name)


def test_adam_goes_on_after_a_state_dict_round_trip():
    one = ImageEncoder("toy", 3)
    first = Adam(one.parameters(), lr=0.01)

    def step(model, optimiser, seed):
        model(images(seed=seed)).logits.square().sum().backward()
        optimiser.step(0.01)

    step(one, first, 0)
    two = copy.deepcopy(one)
    second = Adam(two.parameters(), lr=0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(one, first, 1)
    step(two, second, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


# Starts


def weights(seed=1):
    return {k: v.contiguous() for k, v in ImageEncoder("toy", 3, seed=seed).backbone.state_dict().items()}


def loaded(state, keys=None):
    """A fresh backbone that was given `state`, and the matched share."""
    network, _ = backbone("toy")
    matched = pretrained.load(network, state, keys or {}, "weights.safetensors")
    return network.state_dict(), matched


@pytest.mark.parametrize("prefix", ["", "module.", "encoder_q.", "module.encoder_q.", "backbone.", "model.module."])
def test_usual_wrappers_are_taken_off(prefix):
    state, matched = loaded({prefix + k: v for k, v in weights().items()})
    assert matched == 1.0 and all(torch.equal(state[k], v) for k, v in weights().items())


def test_key_map():
    renamed = {f"trunk.{k}": v for k, v in weights().items()}
    with pytest.raises(UserError, match="keys"):
        loaded(renamed)
    state, matched = loaded(renamed, {"trunk.": ""})
    assert matched == 1.0 and torch.equal(state["3.weight"], weights()["3.weight"])


def test_matched_share_counts_what_is_missing_or_of_another_shape():
    whole = weights()
    own = [k for k in whole if not k.endswith("num_batches_tracked")]
    assert len(own) == 10
    nine = {k: v for k, v in whole.items() if k != "4.running_mean"} | {"fc.weight": torch.ones(9, 9)}
    assert loaded(nine)[1] == pytest.approx(0.9)
    eight = nine | {"0.weight": torch.ones(1, 3, 3, 3)}
    with pytest.raises(UserError, match=r"weights.safetensors: only 80% of the encoder's 10 tensors.*0\.weight"):
        loaded(eight)


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_files(tmp_path, suffix, wrapped):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({wrapped: weights(), "epoch": 3} if wrapped else weights(), path)
    else:
        save_file(weights(), path)
    state, matched = loaded(pretrained.tensors(path))
    assert matched == 1.0 and torch.equal(state["0.weight"], weights()["0.weight"])


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_no_code_is_run_from_a_weights_file(tmp_path, capsys):
    torch.save({"weight": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil.pt: not readable as weights"):
        pretrained.tensors(tmp_path / "evil.pt")
    assert "must not" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("data", [b"", b"hello, this is text", bytes(range(256)), b"\x80\x02}q\x00X\xff"])
def test_damaged_weights_file(tmp_path, suffix, data):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"weights{suffix}: .*safetensors"):
        pretrained.tensors(path)


def test_truncated_weights_file(tmp_path):
    for suffix, write in ((".safetensors", save_file), (".pt", torch.save)):
        path = tmp_path / f"weights{suffix}"
        write(weights(), path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UserError, match=f"weights{suffix}"):
            pretrained.tensors(path)


def test_weights_file_without_tensors(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        pretrained.tensors(tmp_path / "empty.pt")
    with pytest.raises(UserError, match="no such weights file"):
        pretrained.tensors(tmp_path / "absent.pt")


def test_imagenet_weights_exist_for_resnets_only():
    with pytest.raises(UserError, match="no ImageNet weights for wrn28_2"):
        pretrained.imagenet("wrn28_2")


def test_imagenet_without_a_network(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(UserError, match=r"resnet18-.*\.pth is absent and could not be fetched \(no route to host\)"):
        pretrained.imagenet("resnet18")


# The untracked forward


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "tracked" in k}


def test_an_untracked_forward_is_by_the_batch_without_gradient_and_without_a_trace():
    model = ImageEncoder("wrn28_2", 3)
    model.train()
    before = statistics(model)
    one, two = model.untracked_forward(images(4, seed=1), images(3, seed=2))
    assert before and all(torch.equal(v, statistics(model)[k]) for k, v in before.items())
    assert not any(part.requires_grad for output in (one, two) for part in output)
    assert all(p.requires_grad for p in model.parameters()) and model.training
    # Batch statistics: the same numbers as the joint pass in training mode, which does leave a trace.
    joint = model.joint_forward(images(4, seed=1), images(3, seed=2))
    for got, expected in zip((one, two), joint):
        assert all(torch.equal(a, b) for a, b in zip(got, expected))
    changed = [k for k, v in before.items() if not torch.equal(v, statistics(model)[k])]
    assert len(changed) == len(before)
    with torch.no_grad():
        assert not torch.allclose(model.eval()(images(4, seed=1)).logits, one.logits, atol=1e-4)


def test_an_untracked_forward_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model = ImageEncoder("toy", 3)
    model.train()
    monkeypatch.setattr(model, "joint_forward", lambda *batches: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.untracked_forward(images())
    before = statistics(model)
    model(images())
    assert all(not torch.equal(v, statistics(model)[k]) for k, v in before.items())
