"""Views: what they promise of shape and range, and that nothing but the generator decides them."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from fercore import augment
from fercore.training.rng import generator

MEAN, STD = torch.tensor(augment.MEAN), torch.tensor(augment.STD)
VIEWS = {"weak": augment.weak, "strong": augment.strong, "contrastive": augment.contrastive}


def faces(b=5, c=3, h=20, w=20, seed=0):
    return torch.randint(256, (b, c, h, w), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def pixels(view):
    """A normalised view back as values of 0 to 255."""
    return ((view * STD.view(3, 1, 1) + MEAN.view(3, 1, 1)) * 255).round()


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("channels, size", [(1, 20), (3, 24)])
def test_shape_type_memory_and_draws(name, channels, size):
    images, state = faces(c=channels), torch.get_rng_state()
    before = images.clone()
    one, two, other = (VIEWS[name](images, size, generator(0, name, step)) for step in (3, 3, 4))
    assert one.shape == (5, 3, size, size) and one.dtype == torch.float32 and one.device == images.device
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert torch.equal(images, before)  # the faces stay what they were
    values = pixels(one)
    assert one.isfinite().all() and values.min() >= 0 and values.max() <= 255


def test_normalise_as_a_loop():
    images = faces(b=2, h=3, w=4)
    out = augment.normalise(images)
    for b, c, y, x in ((0, 0, 0, 0), (0, 1, 2, 3), (1, 2, 1, 0), (1, 0, 2, 2)):
        expected = (float(images[b, c, y, x]) / 255 - augment.MEAN[c]) / augment.STD[c]
        assert out[b, c, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_grey_fills_three_equal_channels_before_normalisation():
    grey = faces(c=1)
    assert torch.equal(augment.normalise(grey), augment.normalise(grey.expand(-1, 3, -1, -1)))
    values = pixels(augment.weak(grey, 20, generator(0, "weak")))
    assert torch.equal(values[:, 0], values[:, 1]) and torch.equal(values[:, 0], values[:, 2])


def test_centre_is_the_image_itself():
    images = faces()
    assert torch.equal(pixels(augment.centre(images, 20)).to(torch.uint8), images)
    assert augment.centre(images, 32).shape == (5, 3, 32, 32)


def weak_as_a_loop(image, size, draws):
    """One image: pad with zeros, cut size x size out, mirror."""
    padding = max(1, round(8 / 224 * size))
    top = left = padding
    if draws[2] < 0.5:
        top, left = (int(u * (2 * padding + 1)) for u in draws[:2])
    out = torch.zeros(3, size, size)
    for y in range(size):
        for x in range(size):
            column = size - 1 - x if draws[3] < 0.5 else x
            row, column = y + top - padding, column + left - padding
            if 0 <= row < size and 0 <= column < size:
                out[:, y, x] = image[:, row, column].float()
    return out


@pytest.mark.parametrize("seed", range(2))
def test_weak_equals_a_loop(seed):
    images = faces(b=4, h=56, w=56)  # padding of 2
    draws = torch.rand(4, 4, generator=generator(seed, "weak")).tolist()
    view = pixels(augment.weak(images, 56, generator(seed, "weak")))
    for image, row, out in zip(images, draws, view):
        assert torch.equal(out, weak_as_a_loop(image, 56, row))


def test_weak_crops_and_flips_half_of_the_time():
    image = faces(b=1, h=28, w=28)  # padding of 1
    view = pixels(augment.weak(image.expand(1000, -1, -1, -1), 28, generator(0, "weak"))).to(torch.uint8)
    # Not cropped half of the time, and a crop of offset 0 one time in 9: 0.28 each.
    for seen in (image, image.flip(3)):
        assert (view == seen).flatten(1).all(1).float().mean() == pytest.approx(0.28, abs=0.05)
    # The first row of a view is padding exactly where the crop went up.
    up = (view[:, :, 0] == 0).flatten(1).all(1)
    assert up.float().mean() == pytest.approx(0.5 / 3, abs=0.05)


def test_cutout_is_a_square_of_bounded_area_in_grey():
    images = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    out = augment.cutout(images, generator(0, "cutout"))
    hole = (out != 0).any(1)
    assert torch.equal(out.permute(0, 2, 3, 1)[hole].unique(dim=0), torch.tensor([augment.FILL]).byte())
    height, width = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(height * width, hole.sum((1, 2)))  # a rectangle
    assert height.max() <= 16 and width.max() <= 16 and height.max() >= 14
    assert 0.1 < hole.float().mean() * 4 < 0.45  # side uniform in [0, 16]: a third of the largest, less the borders
    grey = augment.cutout(torch.zeros(50, 1, 32, 32, dtype=torch.uint8), generator(0, "cutout"))
    assert set(grey.unique().tolist()) == {0, augment.FILL[1]}


def test_rand_augment_draws_three_operations_from_the_generator(monkeypatch):
    calls = []

    def recorder(name):
        return lambda x, v: calls.append((name, v, len(x))) or x

    spied = {n: (recorder(n), low, high) for n, (_, low, high) in augment.OPERATIONS.items()}
    monkeypatch.setattr(augment, "OPERATIONS", spied)
    images = faces(b=64)
    assert torch.equal(augment.rand_augment(images, generator(0, "strong")), images)
    first, calls = calls, []
    augment.rand_augment(images, generator(0, "strong"))
    second, calls = calls, []
    augment.rand_augment(images, generator(1, "strong"))
    assert first == second != calls
    # Every image gets three of the fourteen; the identity is drawn and not called.
    assert len(spied) == 14 and {name for name, *_ in first} == set(spied) - {"Identity"}
    assert 3 * 64 * 10 / 14 < sum(n for *_, n in first) < 3 * 64
    for name, value, _ in first:
        low, high = spied[name][1:]
        assert low <= value <= high, name


def test_rand_augment_changes_only_who_drew_the_operation(monkeypatch):
    monkeypatch.setattr(augment, "DRAWS", 1)
    names = list(augment.OPERATIONS)
    negative = {n: (lambda x, v: 255 - x, 0, 1) if n == "Equalize" else (lambda x, v: x, 0, 1) for n in names}
    monkeypatch.setattr(augment, "OPERATIONS", negative)
    images = faces(b=200)
    drawn = torch.randint(14, (200,), generator=generator(0, "strong"))
    out = augment.rand_augment(images, generator(0, "strong"))
    assert torch.equal((out != images).flatten(1).any(1), drawn == names.index("Equalize"))


@pytest.mark.parametrize("name", augment.OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_at_both_ends_of_its_range(name, channels):
    operation, low, high = augment.OPERATIONS[name]
    images = faces(c=channels)
    for value in (low, high):
        out = operation(images, float(value))
        assert out.shape == images.shape and out.dtype == torch.uint8
    if low != high and not (channels == 1 and name == "Color"):
        assert not torch.equal(operation(images, float(low)), operation(images, float(high)))
    if name == "Brightness":  # which only attenuates, as in the released code
        assert all((operation(images, value) <= images).all() for value in (low, high))


def moved(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


# As the code that the papers follow has them. It draws a sign for what moves; where ours goes the other way, so here.
PILLOW = {
    "AutoContrast": lambda image, v: ImageOps.autocontrast(image),
    "Brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "Color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "Contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "Equalize": lambda image, v: ImageOps.equalize(image),
    "Identity": lambda image, v: image,
    "Posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "Rotate": lambda image, v: image.rotate(-v),
    "Sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "ShearX": lambda image, v: moved(image, 1, v, 0, 0, 1, 0),
    "ShearY": lambda image, v: moved(image, 1, 0, 0, v, 1, 0),
    "Solarize": lambda image, v: ImageOps.solarize(image, v),
    "TranslateX": lambda image, v: moved(image, 1, 0, -v * image.width, 0, 1, 0),
    "TranslateY": lambda image, v: moved(image, 1, 0, 0, 0, 1, -v * image.height),
}


def drawing():
    """Every value, and lines that show where a point goes."""
    image = Image.fromarray(np.arange(40 * 48 * 3, dtype=np.uint8).reshape(48, 40, 3))
    draw = ImageDraw.Draw(image)
    draw.ellipse((6, 4, 33, 42), outline=(255, 0, 0), fill=(200, 150, 120))
    draw.line((0, 0, 39, 47), fill=(0, 0, 255), width=2)
    return image


@pytest.mark.parametrize("name", augment.OPERATIONS)
@pytest.mark.parametrize("share", [0.003, 0.171, 0.382, 0.57, 0.811, 0.998])  # of the range
def test_an_operation_is_pillows(name, share):
    operation, low, high = augment.OPERATIONS[name]
    image, v = drawing(), low + (high - low) * share
    expected = np.asarray(PILLOW[name](image, v)).astype(int)
    ours = operation(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], v)[0].permute(1, 2, 0).numpy()
    # Pillow rounds the grey image and its mean once more; of a turned image, a point between two pixels takes either.
    off = abs(ours - expected) > {"Color": 1, "Contrast": 2, "Sharpness": 1}.get(name, 0)
    assert off.mean() <= (0.005 if name == "Rotate" else 0)


def test_an_image_is_the_same_alone_and_in_a_batch():
    images = faces(b=6)
    for name, (operation, low, high) in augment.OPERATIONS.items():
        v = low + 0.57 * (high - low)
        assert torch.equal(operation(images, v), torch.cat([operation(x[None], v) for x in images])), name


def test_translation_goes_by_its_share_of_the_width():
    images = faces()
    for name, axis in (("TranslateX", 3), ("TranslateY", 2)):
        moved = augment.OPERATIONS[name][0](images, 0.3)
        assert torch.equal(moved.narrow(axis, 6, 14), images.narrow(axis, 0, 14)), name


def test_contrastive_stays_upright_and_mirrors_half_of_the_time():
    upright, sideways = torch.zeros(2, 200, 1, 32, 32, dtype=torch.uint8)
    upright[:, :, :16] = sideways[..., :16] = 200
    above = augment.contrastive(upright, 32, generator(0, "contrastive"))[:, 0]
    assert (above[:, :8].mean((1, 2)) > above[:, 24:].mean((1, 2))).all()
    view = augment.contrastive(sideways, 32, generator(1, "contrastive"))[:, 0]
    right = (view[:, :, 24:].mean((1, 2)) > view[:, :, :8].mean((1, 2))).float().mean()
    assert right == pytest.approx(0.5, abs=0.12)


def test_contrastive_turns_by_at_most_twelve_degrees(monkeypatch):
    angles = []
    plain = F.affine_grid

    def spy(theta, *args, **kwargs):
        # Undo the mirror: theta's first column is flip * (cos, sin) * sx.
        flip = theta[:, 0, 0].sign()
        angles.append(torch.atan2(theta[:, 1, 0] * flip, theta[:, 0, 0] * flip))
        area = theta[:, :, :2].det().abs()
        assert area.min() >= 0.5 - 1e-4 and area.max() <= 1 + 1e-4  # 50-100 % of the area
        aspect = theta[:, :, 0].norm(dim=1) / theta[:, :, 1].norm(dim=1)
        assert aspect.min() >= math.exp(-0.16) - 1e-4 and aspect.max() <= math.exp(0.16) + 1e-4  # 0.85-1.18
        return plain(theta, *args, **kwargs)

    monkeypatch.setattr(F, "affine_grid", spy)
    augment.contrastive(faces(b=500), 20, generator(0, "contrastive"))
    assert 11 < math.degrees(angles[0].abs().max()) <= 12


def test_quarter_turns_as_a_loop():
    x = torch.arange(7 * 3 * 4 * 4).float().reshape(7, 3, 4, 4)
    turned, angles = augment.quarter_turns(x)
    order = [0, 4, 1, 5, 2, 6, 3]  # which image goes where
    assert angles.tolist() == [i % 4 for i in order] and angles.dtype == torch.int64
    for i, image in zip(order, turned):
        expected = x[i]
        for _ in range(i % 4):  # to the left: what was the right column is the top row
            expected = torch.stack([expected[:, :, 3 - column] for column in range(4)], 1)
        assert torch.equal(image, expected)
