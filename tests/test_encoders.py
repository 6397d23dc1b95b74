"""Encoders, the narrow convolution, and where the weights start from."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fercore import convolution, files
from fercore.encoders import BACKBONES, ImageEncoder, backbone
from fercore.errors import UserError
from fercore.training import pretrained


def images(b=4, size=24, seed=0):
    x = torch.randn(b, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


# The narrow convolution


@pytest.mark.parametrize("kernel, padding", [(1, 0), (3, 0), (3, 1), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_by_columns_equals_the_library(kernel, padding, stride):
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 6, kernel, stride, padding, bias=False).to(memory_format=torch.channels_last)
    narrow = convolution.by_columns(nn.Sequential(copy.deepcopy(plain)))[0]
    assert type(narrow) is convolution.Conv2d
    sizes = [(3, 3), (4, 4), (5, 5), (3, 4), (7, 4)]
    # What is left of a 24-pixel face in the last stage of a ResNet is one pixel, which only the kernel's centre meets.
    for height, width in sizes + [(1, 1)] * (kernel <= 1 + 2 * padding):
        one = torch.randn(3, 5, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
        two = one.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        expected, got = plain(one), narrow(two)
        assert torch.allclose(got, expected, atol=1e-5), (height, width)
        weights = torch.randn_like(expected)
        ours, theirs = (
            torch.autograd.grad((out * weights).sum(), (x, layer.weight))
            for out, x, layer in ((got, two, narrow), (expected, one, plain))
        )
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs)), (height, width)


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
    "kernel, options",
    [
        (3, {"groups": 2}), (3, {"dilation": 2}), ((1, 3), {}), (3, {"padding": "same"}), (3, {"bias": True}),
        (3, {"padding": 1, "padding_mode": "reflect"}),
    ],
)  # fmt: skip
def test_other_convolutions_give_what_they_gave(kernel, options):
    layer, x = nn.Conv2d(4, 4, kernel, **{"bias": False, **options}), torch.randn(2, 4, 5, 5)
    expected = layer(x)
    assert torch.equal(convolution.by_columns(nn.Sequential(layer))(x), expected)


def test_by_columns_keeps_parameters_and_their_names():
    build, _ = BACKBONES["wrn28_2"]
    plain = build()
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    after = convolution.by_columns(plain).state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


# Encoders


@pytest.mark.parametrize("name, width", [("resnet18", 512), ("resnet50", 2048), ("wrn28_2", 128), ("toy", 16)])
def test_encoder_shapes(name, width):
    with torch.device("meta"):
        model = ImageEncoder(name, 7)
        feature = model.backbone(torch.empty(2, 3, 32, 32))
    assert feature.shape == (2, width) and model.width == model.embedding_width == width
    assert model.classify(feature).shape == (2, 7)


def test_embedding_is_the_unit_feature_or_a_projection():
    output = ImageEncoder("toy", 7)(images())
    assert output.logits.shape == (4, 7) and output.feature.shape == output.embedding.shape == (4, 16)
    assert torch.allclose(output.embedding.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.allclose(output.embedding, nn.functional.normalize(output.feature, dim=1))
    model = ImageEncoder("toy", 3, projection=5)
    assert model.embedding_width == 5 and model(images()).embedding.shape == (4, 5)


def test_wide_resnet_is_28_layers_deep_and_2_wide():
    network, _ = backbone("wrn28_2")
    main = [m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n]
    assert len(main) == 25  # and the classifier, and by custom the shortcuts of three groups
    assert sorted({m.out_channels for m in main}) == [16, 32, 64, 128]
    assert network.to("meta")[:-3](torch.empty(1, 3, 48, 48, device="meta")).shape == (1, 128, 12, 12)


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


def test_a_joint_forward_is_one_batch():
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


# Starts


def weights(seed=1):
    return {k: v.contiguous() for k, v in ImageEncoder("toy", 3, seed=seed).backbone.state_dict().items()}


def loaded(state, names=None):
    """A fresh backbone that was given `state`, and the matched share."""
    network, _ = backbone("toy")
    start = pretrained.Start("file", tensors=state, names=names or {}, source="weights.safetensors")
    return network.state_dict(), pretrained.load(network, start)


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
    eight = nine | {"3.weight": torch.ones(1, 3, 3, 3)}
    with pytest.raises(UserError, match=r"weights.safetensors: only 80% of the encoder's 10 tensors.*3\.weight"):
        loaded(eight)


FIRST = {
    "0.weight, is 8 x 1 x 3 x 3; the encoder's is 8 x 3 x 3 x 3": lambda state: state["0.weight"][:, :1],
    "0.weight, is absent; the encoder's is": lambda state: None,
    "0.weight holds NaN": lambda state: state["0.weight"] * float("nan"),
}


@pytest.mark.parametrize("said", FIRST)
def test_a_start_whose_first_layer_does_not_fit_is_refused(said):
    """Nine tenths of the tensors are there, and no face would be seen as by the start."""
    state = weights()
    first = FIRST[said](state)
    state = {k: v for k, v in state.items() if k != "0.weight"} | ({} if first is None else {"0.weight": first})
    with pytest.raises(UserError, match=rf"weights\.safetensors: .*{said}"):
        loaded(state)


def test_weights_named_by_numbers_are_refused(tmp_path):
    torch.save({0: torch.ones(2), 1: torch.ones(2)}, tmp_path / "numbered.pt")
    with pytest.raises(UserError, match=r"numbered\.pt: its tensors are named by 0 and the like; expected names"):
        pretrained.tensors(tmp_path / "numbered.pt")


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_files(tmp_path, suffix, wrapped):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({wrapped: weights(), "epoch": 3} if wrapped else weights(), path)
    else:
        save_file(weights(), path)
    start = pretrained.of_file(path, {})
    assert start.summary() == {"kind": "file", "sha256": files.sha256(path), "key": None}
    state, matched = loaded(start.tensors)
    assert matched == 1.0 and torch.equal(state["0.weight"], weights()["0.weight"])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"weights{suffix}"):
        pretrained.tensors(path)


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


def test_weights_file_without_tensors(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "empty.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        pretrained.tensors(tmp_path / "empty.pt")
    with pytest.raises(UserError, match="no such weights file"):
        pretrained.tensors(tmp_path / "absent.pt")


def test_no_start_leaves_the_weights_as_drawn():
    network, _ = backbone("toy")
    assert pretrained.load(network, pretrained.Start()) == 0.0
    assert pretrained.Start().summary() == {"kind": "none", "sha256": None, "key": None}


def test_imagenet_weights_exist_for_resnets_and_need_a_network(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(UserError, match=r"resnet18-.*\.pth is absent and could not be fetched \(no route to host\)"):
        pretrained.imagenet("resnet18")
    with pytest.raises(UserError, match="no ImageNet weights for wrn28_2"):
        pretrained.imagenet("wrn28_2")


# The untracked forward


def statistics(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "running" in k or "tracked" in k}


def test_an_untracked_forward_is_by_the_batch_without_gradient_and_without_a_trace():
    model = ImageEncoder("toy", 3).train()
    before = statistics(model)
    one, two = model.untracked_forward(images(4, seed=1), images(3, seed=2))
    assert before and all(torch.equal(v, statistics(model)[k]) for k, v in before.items())
    assert not any(part.requires_grad for output in (one, two) for part in output)
    assert all(p.requires_grad for p in model.parameters()) and model.training
    # Batch statistics: the same numbers as a pass in training mode, which does leave a trace.
    for got, expected in zip((one, two), (model(images(4, seed=1)), model(images(3, seed=2)))):
        assert all(torch.equal(a, b) for a, b in zip(got, expected))
    changed = [k for k, v in before.items() if not torch.equal(v, statistics(model)[k])]
    assert len(changed) == len(before)
    with torch.no_grad():
        assert not torch.allclose(model.eval()(images(4, seed=1)).logits, one.logits, atol=1e-4)


def test_an_untracked_forward_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model = ImageEncoder("toy", 3).train()
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(model, "feature", lambda images: 1 / 0)
        model.untracked_forward(images())
    before = statistics(model)
    model(images())
    assert all(not torch.equal(v, statistics(model)[k]) for k, v in before.items())
