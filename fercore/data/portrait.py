"""Draws a face from its landmarks, and photographs it.

Everything is numpy on [b, height, width] grids of a batch of faces: a shape is the signed distance to its outline, a
soft step turns the distance into cover, and colours are laid over each other. Each feature is drawn in its own
coordinates, in a window around it. Only + - * / and square roots reach the pixels, so the bytes follow from the seed
and not from the machine's mathematical library. Traits arrive as float32 columns [b, 1, 1]; lengths are in half head
heights, x to the right and y down, from a point between the eyes and the nose.
"""

from types import SimpleNamespace

import numpy as np
from jaxtyping import Float32, UInt8

# fmt: off
SKIN = ((0.98, 0.84, 0.74), (0.93, 0.74, 0.61), (0.83, 0.61, 0.46), (0.67, 0.46, 0.33), (0.50, 0.33, 0.24),
        (0.36, 0.24, 0.18))
HAIR = (0.07, 0.06, 0.06), (0.17, 0.11, 0.08), (0.33, 0.20, 0.12), (0.52, 0.27, 0.13), (0.80, 0.63, 0.36)
IRIS = (0.16, 0.09, 0.06), (0.30, 0.18, 0.10), (0.33, 0.38, 0.20), (0.25, 0.42, 0.60), (0.45, 0.52, 0.56)
# fmt: on
GREY, CAVITY, TONGUE = (np.array([c], np.float32) for c in ((0.74, 0.73, 0.72), (0.20, 0.06, 0.06), (0.62, 0.26, 0.26)))


class Canvas:
    """The pixels of a batch of photographs, and where on the head each of them lies."""

    def __init__(self, photo, size):
        self.photo, self.size, self.zoom = photo, size, photo.zoom
        self.yaw, self.pitch, self.roll = turn(photo.yaw), turn(photo.pitch), turn(photo.roll)
        grid = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        x, y = grid - photo.shift_x, grid[:, None] - photo.shift_y
        cos, sin = self.roll
        self.x, self.y = (cos * x + sin * y) * self.zoom, (cos * y - sin * x) * self.zoom
        self.edge = 3 * self.zoom / size  # outlines are soft over one and a half pixels
        self.rgb = np.empty((len(self.x), 3, size, size), np.float32)
        self.all = slice(None), slice(None), slice(None)

    def at(self, x, y, wide, high, lift=0.0):
        """Window of the pixels within `wide` and `high` of the head's point (x, y), and their (u, v) from there.

        The head is a ball: what sits on the side that is turned away is narrow. `lift` is the height above the ball.
        """
        x, y = x + 0 * self.zoom, y + 0 * self.zoom
        deep = 0.62 * np.sqrt(np.maximum(1 - (x / 0.85) ** 2 - (y / 1.15) ** 2, 0.1)) + lift
        (cos, sin), (up_cos, up_sin), (roll_cos, roll_sin) = self.yaw, self.pitch, self.roll
        narrow = np.maximum(cos - sin * 0.53 * x / np.maximum(deep, 0.2), 0.4)
        x, y = cos * x + sin * deep, up_cos * y + up_sin * (cos * deep - sin * x)
        window = [slice(None)]
        for centre, reach in (
            (roll_sin * x + roll_cos * y, high + np.abs(roll_sin) * wide),
            (roll_cos * x - roll_sin * y, wide + np.abs(roll_sin) * high),
        ):
            centre = centre + self.zoom * (self.photo.shift_y if len(window) == 1 else self.photo.shift_x)
            first = int((((centre - reach) / self.zoom).min() + 1) / 2 * self.size)
            last = int((((centre + reach) / self.zoom).max() + 1) / 2 * self.size) + 1
            window.append(slice(np.clip(first, 0, self.size - 1), np.clip(last, 1, self.size)))
        window = tuple(window)
        return window, (self.x[window] - x) / narrow, self.y[window] - y

    def paint(self, window, colour, cover):
        """Lay a colour, [b, 3] or one grey, over the window where `cover` [b, h, w] is 1."""
        part = self.rgb[:, :, window[1], window[2]]
        change = (colour if np.isscalar(colour) else colour[:, :, None, None]) - part
        change *= cover[:, None]
        part += change

    def shade(self, window, strength):
        """Darken the window by a share, or lighten it where that is negative."""
        self.rgb[:, :, window[1], window[2]] *= (1 - strength)[:, None]


def turn(half):
    """cos and sin of an angle from the tangent of its half."""
    return (1 - half**2) / (1 + half**2), 2 * half / (1 + half**2)


def ramp(palette, t):
    """Colours [b, 3] at t, 0 to 1, along a palette."""
    steps = np.linspace(0, 1, len(palette))
    return np.stack([np.interp(t.reshape(-1), steps, channel) for channel in zip(*palette)], 1).astype(np.float32)


def inside(distance, edge):
    """Cover from the signed distance to an outline: 1 inside, 0 outside, smooth over `edge`."""
    t = np.clip(0.5 - distance / edge, 0, 1)
    return t * t * (3 - 2 * t)


def disc(u, v, a, b, edge):
    """Cover of an ellipse with half axes a and b."""
    return inside((np.sqrt((u / a) ** 2 + (v / b) ** 2) - 1) * np.minimum(a, b), edge)


def glow(u, v, a, b):
    """A spot that fades to nothing at the ellipse with half axes a and b."""
    t = np.maximum(1 - (u / a) ** 2 - (v / b) ** 2, 0)
    return t * t


def stroke(u, v, curve, middle, length, thick, edge):
    """A line along v = c0 + c1 u + c2 u^2, `length` to either side of u = middle, thinning and fading at its ends."""
    c0, c1, c2 = curve
    across = np.abs(v - (c0 + u * (c1 + c2 * u))) / np.sqrt(1 + (c1 + 2 * c2 * u) ** 2)
    t = ((u - middle) / length) ** 2
    return inside(across - thick * (1 - t), edge) * np.clip(3 - 3 * t, 0, 1)


def draw(person: SimpleNamespace, marks: list[SimpleNamespace], photo: SimpleNamespace, size: int) -> Canvas:
    """The face's own colours, from the wall to the glasses; returns the Canvas."""
    canvas = Canvas(photo, size)
    skin = ramp(SKIN, person.skin)
    look = SimpleNamespace(
        skin=skin,
        dark=skin * np.array([0.55, 0.45, 0.42], np.float32),
        red=skin * np.array([0.92, 0.62, 0.60], np.float32),
        cloth=np.concatenate([person.cloth_r, person.cloth_g, person.cloth_b], 1)[:, :, 0],
        scarf=(person.wear > 0.93).astype(np.float32),
        age=np.maximum(person.age, 0),
    )
    # Light hair is rare on dark skin, and hair greys with age.
    hair = ramp(HAIR, person.hair * (1 - 0.75 * person.skin)) * person.hair_light[:, :, 0]
    grey = np.clip(6 * person.age - 3.5 - 2 * person.hair, 0, 1)[:, :, 0]
    look.hair = hair + grey * (GREY - hair)
    look.locks = look.hair + look.scarf[:, :, 0] * (look.cloth - look.hair)
    both = SimpleNamespace(**{name: (vars(marks[0])[name] + vars(marks[1])[name]) / 2 for name in vars(marks[0])})

    backdrop(canvas, person, photo, look)
    head(canvas, person, both, look)
    for sign, side in zip((-1, 1), marks):
        eye(canvas, person, side, sign, photo, look)
        brow(canvas, person, side, sign, look)
    forehead(canvas, person, both, look)
    beard(canvas, person, both, look)
    nose(canvas, person, both, look)
    for sign, side in zip((-1, 1), marks):
        cheek(canvas, person, side, sign, look)
    mouth(canvas, person, marks, both, look)
    hair_front(canvas, person, look)
    glasses(canvas, person)
    canvas.tone = skin
    return canvas


def backdrop(canvas, person, photo, look):
    """Wall, the hair that falls behind the shoulders, neck and clothes."""
    x, y, edge = canvas.x, canvas.y, canvas.edge
    wall = np.concatenate([photo.wall_r, photo.wall_g, photo.wall_b], 1)
    canvas.rgb[:] = wall[:, :, None] * (0.85 + 0.2 * photo.wall_x * x - 0.1 * y)[:, None]
    crown = np.sqrt((x / (person.width + person.volume)) ** 2 + (np.minimum(y, 0) / (1 + person.volume)) ** 2)
    curls = np.abs((5 * x + 3 * y) % 2 - 1) + np.abs((4 * y - 4 * x) % 2 - 1)
    canvas.crown = 0.8 * (crown - 1) + 0.05 * np.maximum(person.curls, 0) * curls
    bald = (person.hairline < -0.78) & (look.scarf == 0)
    canvas.hairy = 1 - bald.astype(np.float32)
    length = np.maximum(1.8 * person.length - 0.35, 2 * look.scarf)
    canvas.paint(canvas.all, look.locks * 0.7, canvas.hairy * inside(np.maximum(canvas.crown, y - length), edge))
    neck = inside(np.maximum(np.abs(x) - 0.6 * person.width, 0.4 - y), edge)
    canvas.paint(canvas.all, look.skin * 0.66, neck * (1 - look.scarf))
    canvas.paint(canvas.all, look.cloth, inside(1.10 - y + 0.3 * np.maximum(0.5 - np.abs(x), 0), edge))


def head(canvas, person, both, look):
    """Ears, and the skull with the jaw. Keeps where skin is and which way it faces."""
    x, y, edge, sin = canvas.x, canvas.y, canvas.edge, canvas.yaw[1]
    for sign in (-1, 1):
        window, _, v = canvas.at(sign * person.width, 0.05, 0.40, 0.30)
        u = x[window] - sign * (person.width + 0.01)
        canvas.paint(window, look.skin * 0.86, disc(u, v, 0.09, 0.19, edge))
        canvas.paint(window, look.dark, 0.5 * glow(u, v, 0.06, 0.14))
    down, up = np.maximum(y, 0) / (person.chin + both.jaw), np.minimum(y, 0) / 0.98
    across = (x - 0.3 * sin * np.maximum(y, 0)) / (person.width * (1 - person.taper * down * down))
    r2 = across * across + down * down + up * up
    canvas.rim = np.sqrt(r2)
    canvas.skin = inside((canvas.rim - 1) * 0.75, edge)
    canvas.normal = across, down + up, np.sqrt(np.maximum(1 - r2, 0))
    canvas.paint(canvas.all, look.skin, canvas.skin)


def eye(canvas, person, side, sign, photo, look):
    """Socket, eyeball between the lids, lashes, crease, bag under the eye and crow's feet."""
    edge, wide, size = canvas.edge, person.eye_width, person.iris_size
    window, u, v = canvas.at(sign * person.eye_x, -0.06, 0.37, 0.26)
    u, v = u * sign, v + person.eye_tilt / wide * u * sign
    up, low = np.maximum(side.lid_up, 0.02), np.maximum(side.lid_low, 0.004)
    canvas.shade(window, 0.22 * glow(u + 0.02, v + 0.05, 0.27, 0.17))
    t = u / wide
    e = np.maximum(1 - t * t, 0)
    opening = inside(np.maximum(-v - up * e, v - low * e) + wide * np.maximum(np.abs(t) - 1, 0), edge)
    canvas.paint(window, 0.93, opening * (0.96 - 0.1 * t * t))
    gaze_u, gaze_v, iris = u - sign * photo.gaze_x, v - photo.gaze_y + 0.008, ramp(IRIS, person.iris)
    canvas.paint(window, iris * 0.5, opening * disc(gaze_u, gaze_v, size, size, edge))
    canvas.paint(window, iris, opening * disc(gaze_u, gaze_v, size * 0.78, size * 0.78, edge))
    canvas.paint(window, 0.04, opening * disc(gaze_u, gaze_v, size * 0.42, size * 0.42, edge))
    canvas.paint(window, 1.0, 0.85 * opening * disc(gaze_u * sign + 0.025, gaze_v + 0.028, 0.017, 0.017, edge))
    canvas.shade(window, 0.45 * opening * np.maximum(1 - (v + up * e) / 0.045, 0))  # the upper lid's shadow
    lid, lash = (-up, 0, up / wide**2), 0.011 + 0.012 * person.lashes
    canvas.paint(window, look.dark * 0.3, 0.95 * stroke(u, v, lid, 0.01, wide + 0.02, lash, edge))
    canvas.paint(window, look.dark, 0.65 * stroke(u, v, (low, 0, -low / wide**2), 0, wide, 0.006, edge))
    crease = -np.maximum(person.lid_up + 0.045, up + 0.018), 0, 0.8 * up / wide**2
    canvas.paint(window, look.dark, 0.5 * stroke(u, v, crease, 0, wide, 0.006, edge))
    bag = 0.1 + 0.2 * look.age + 0.5 * side.bag
    canvas.paint(window, look.dark, bag * stroke(u, v, (low + 0.04, 0, -0.8), 0, wide, 0.007, edge))
    for lean in (-0.5, 0.0, 0.5):
        crow = stroke(u, v, (-lean * (wide + 0.02), lean, 0), wide + 0.08, 0.06, 0.007, edge)
        canvas.paint(window, look.dark, 0.75 * side.crow * crow)


def brow(canvas, person, side, sign, look):
    """A tapering curve through the three landmarks of the brow."""
    window, u, v = canvas.at(sign * person.eye_x, person.brow, 0.35, 0.30)
    low, high = side.brow_gap - person.eye_x, person.eye_width + 0.08
    half, middle = (high - low) / 2, (high + low) / 2
    tip, mid, tail = side.brow_in - person.brow, side.brow_mid - person.brow, side.brow_out - person.brow
    u = u * sign - middle
    curve = mid, (tail - tip) / (2 * half), ((tail + tip) / 2 - mid) / half**2
    line = stroke(u, v, curve, 0, half, person.brow_thick * (1 - 0.35 * u / half), canvas.edge)
    canvas.paint(window, look.hair * 0.55 + look.dark * 0.2, 0.92 * line)


def forehead(canvas, person, both, look):
    """Lines across the forehead, above the part of the brow that is raised, and the furrow between the brows."""
    edge = canvas.edge
    window, u, v = canvas.at(0, person.brow - 0.24, 0.5, 0.2)
    far = np.minimum((u / 0.34) ** 2, 1)
    strength = np.minimum(0.25 * look.age + 0.65 * (both.lines_in * (1 - far) + both.lines_out * far), 1)
    for height in (0.07, 0.0, -0.07):
        canvas.paint(window, look.dark, strength * stroke(u, v, (height, 0, 0.25), 0, 0.44, 0.007, edge))
    window, u, v = canvas.at(0, person.brow + 0.06, 0.16, 0.2, 0.03)
    canvas.shade(window, 0.25 * both.furrow * glow(u, v, 0.14, 0.16))
    for sign in (-1, 1):
        line = stroke(v, u * sign, (0.05, 0.1, 0), -0.02, 0.11, 0.010, edge)
        canvas.paint(window, look.dark * 0.8, (0.9 * both.furrow + 0.1 * look.age) * line)


def nose(canvas, person, both, look):
    """Bridge, the wrinkles across its root, tip, nostrils and wings."""
    edge, wide = canvas.edge, person.nose_width
    window, u, v = canvas.at(0, both.nose - 0.20, 0.22, 0.38, 0.06)
    canvas.shade(window, 0.16 * (glow(u - 0.09, v, 0.09, 0.3) + glow(u + 0.09, v, 0.09, 0.3)))
    canvas.shade(window, -0.13 * glow(u, v - 0.02, 0.07, 0.3))
    for height in (-0.16, -0.10, -0.04):
        canvas.paint(window, look.dark, 0.8 * both.wrinkle * stroke(u, v, (height, 0, -2.5), 0, 0.11, 0.008, edge))
    window, u, v = canvas.at(0, both.nose, 0.25, 0.20, 0.16)
    canvas.shade(window, 0.18 * glow(u, v - 0.045, wide * 1.2, 0.07) - 0.12 * glow(u, v + 0.07, 0.09, 0.09))
    for sign in (-1, 1):
        canvas.paint(window, look.dark * 0.6, 0.85 * disc(u * sign - 0.45 * wide, v - 0.012, 0.036, 0.020, edge))
        canvas.paint(window, look.dark, 0.7 * stroke(v, u * sign, (wide, 0, -8), -0.02, 0.07, 0.009, edge))


def cheek(canvas, person, side, sign, look):
    """Blush, the raised cheek, and the fold from the wing of the nose to the corner of the mouth."""
    edge = canvas.edge
    window, u, v = canvas.at(sign * 0.40, 0.22 - 0.06 * side.cheek, 0.3, 0.28)
    canvas.paint(window, look.red, (0.10 + 0.30 * person.blush) * glow(u, v, 0.24, 0.2))
    canvas.shade(window, side.cheek * (0.16 * glow(u, v - 0.15, 0.26, 0.10) - 0.10 * glow(u, v + 0.02, 0.2, 0.13)))
    inner, outer = person.nose_width + 0.04, side.corner_x + 0.085
    top, end = side.nose - 0.03, person.mouth + side.corner_y + 0.05
    window, u, v = canvas.at(sign * 0.27, (top + end) / 2, 0.22, 0.33)
    half = (end - top) / 2
    curve = (inner + outer) / 2 - 0.25, (outer - inner) / (2 * half), -0.02 / half**2
    fold = np.minimum(0.1 + 0.35 * look.age + 0.7 * side.fold, 0.95)
    canvas.paint(window, look.dark, fold * stroke(v, u * sign, curve, 0, half + 0.02, 0.010, edge))


def mouth(canvas, person, marks, both, look):
    """Lips around the opening; in it the cavity, tongue and teeth; lines at the corners."""
    edge, (left, right) = canvas.edge, marks
    window, u, v = canvas.at(0, person.mouth + 0.12, 0.5, 0.44, 0.05)
    v = v + 0.12
    t = u / np.where(u < 0, left.corner_x, right.corner_x)
    v = v - np.where(u < 0, left.corner_y, right.corner_y) * t * t  # now the line of the mouth is straight
    e = np.maximum(1 - t * t, 0)
    s = np.sqrt(e)
    beyond = both.corner_x * np.maximum(np.abs(t) - 1, 0)
    up, low, thick = np.maximum(both.lip_up, 0), np.maximum(both.lip_low, 0), np.maximum(both.thick, 0.012)
    bow = 0.8 * thick * (0.75 + 0.25 * np.minimum(np.abs(t) * 5, 1))  # Cupid's
    canvas.shade(window, 0.22 * glow(u, v - low - 2.6 * thick, 0.22, 0.09))
    lips = np.maximum(-v - (up + bow) * (e + s) / 2, v - (low + 1.15 * thick) * (e + s) / 2) + beyond
    pale = 0.8 - 0.35 * person.lips[:, :, 0]
    tint = look.skin * np.concatenate([0.9 + 0 * pale, 0.78 * pale, 0.8 * pale], 1)
    canvas.paint(window, tint, 0.9 * inside(lips, edge))
    canvas.shade(window, -0.18 * glow(u, v - low - 0.6 * thick, 0.6 * both.corner_x, 0.7 * thick))
    hole = inside(np.maximum(-v - up * e, v - low * s) + beyond, edge) * np.minimum((up + low) / 0.03, 1)
    canvas.paint(window, CAVITY, hole)
    canvas.paint(window, TONGUE, hole * disc(u, v - low, 0.6 * both.corner_x, 0.10, edge))
    teeth = hole * inside(np.abs(t) * 0.3 - 0.26, edge)
    canvas.paint(window, 0.92, teeth * inside(v + up * e - np.minimum(0.07, 0.7 * (up + low)), edge))
    bared = np.minimum(3 * both.lower_teeth, 1) * inside(low * s - v - 0.065 * both.lower_teeth, edge)
    canvas.paint(window, 0.88, teeth * bared)
    closed = np.maximum(1 - (up + low) / 0.04, 0) * stroke(t, v, (0, 0, 0), 0, 1.06, 0.010 + 0.005 * both.pursed, edge)
    canvas.paint(window, look.dark * 0.5, 0.9 * closed)
    for sign, side in zip((-1, 1), marks):
        canvas.shade(window, 0.45 * glow(u * sign - side.corner_x - 0.015, v, 0.05, 0.05))
        droop = stroke(v, u * sign, (side.corner_x + 0.03, 0.5, 0), 0.06, 0.075, 0.009, edge)
        canvas.paint(window, look.dark, 0.8 * side.droop * droop)


def beard(canvas, person, both, look):
    """A beard along the jaw, a moustache over the lip."""
    grown = np.clip((person.beard - 0.75) * 8, 0, 1)
    jaw = np.clip((canvas.rim - 0.62) * 7, 0, 1) * np.clip((canvas.y - 0.11) * 4, 0, 1)
    canvas.paint(canvas.all, look.hair * 0.85, 0.85 * grown * jaw * canvas.skin)
    window, u, v = canvas.at(0, person.mouth - 0.02 - both.lip_up, 0.32, 0.2, 0.05)
    lip = stroke(u, v, (-0.09, 0, 1.2), 0, 0.28, 0.045, canvas.edge)
    canvas.paint(window, look.hair * 0.85, 0.9 * np.maximum(grown, np.clip((person.moustache - 0.85) * 10, 0, 1)) * lip)


def hair_front(canvas, person, look):
    """Hair over the forehead and down the sides, parted or straight, or a scarf."""
    x, y, edge = canvas.x - 0.45 * canvas.yaw[1], canvas.y, canvas.edge
    far = (x / person.width) ** 2
    fall = 0.3 + 0.9 * np.maximum(person.length, look.scarf)
    line = person.hairline + person.sweep * np.abs(x - person.part) + fall * far * far * far
    cover = canvas.hairy * inside(np.maximum(canvas.crown, np.maximum(y - line, y - 0.3 - 1.5 * person.length)), edge)
    canvas.shade(canvas.all, 0.25 * canvas.hairy * np.clip(1 - (y - line) / 0.12, 0, 1) * canvas.skin)
    strands = 0.15 * (1 - look.scarf) * (np.abs((9 * (x - person.part) * (1.6 - y) + 2 * person.part) % 2 - 1) - 0.5)
    canvas.paint(canvas.all, look.locks, cover)
    canvas.shade(canvas.all, strands * cover)  # after the paint: light and dark strands


def glasses(canvas, person):
    """Rims, bridge and arms; sometimes dark lenses."""
    edge, worn = canvas.edge, (person.glasses > 0.84).astype(np.float32)
    dark, tint = 0.9 * (person.glasses > 0.985), 0.05 + 0.4 * (person.glasses * 50 % 1)[:, :, 0]
    a, b = person.lens, person.lens * 0.82
    for sign in (-1, 1):
        window, u, v = canvas.at(sign * (person.eye_x + 0.01), -0.04, 0.50, 0.30, 0.05)
        uu, vv = (u / a) ** 2, (v / b) ** 2
        rim = (np.sqrt(np.sqrt(uu * uu + vv * vv)) - 1) * b
        canvas.paint(window, 0.06, worn * dark * inside(rim, edge))
        arm = np.maximum(np.abs(v + 0.04) - 0.014, np.maximum(a - u * sign, u * sign - a - 0.16))
        canvas.paint(window, tint, worn * inside(np.minimum(np.abs(rim) - 0.016, arm), edge))
    window, u, v = canvas.at(0, -0.07, 0.2, 0.06, 0.12)
    bridge = np.maximum(np.abs(v) - 0.014, np.abs(u) - (person.eye_x + 0.01 - a))
    canvas.paint(window, tint, worn * inside(bridge, edge))


def photograph(
    canvas: Canvas, photo: SimpleNamespace, grain: Float32[np.ndarray, "b 3 h w"]
) -> UInt8[np.ndarray, "b 3 h w"]:
    """Something in the way, then light, colour cast, lens and sensor."""
    for i in np.flatnonzero(photo.cover > 0):
        obstruct(canvas, i, *(getattr(photo, f"cover{name}")[i, 0, 0] for name in ("", "_x", "_y", "_lean", "_shade")))
    across, down, out = canvas.normal
    towards = np.sqrt(photo.light_x**2 + photo.light_y**2 + 0.8)
    lit = np.maximum(across * photo.light_x + down * photo.light_y + 0.9 * out, 0) / towards
    light = (1 + canvas.skin * photo.contrast * (lit - 0.7)) * (1 + photo.slope_x * canvas.x + photo.slope_y * canvas.y)
    rgb = canvas.rgb
    rgb *= (light * photo.exposure)[:, None]
    grey = rgb.mean(1, keepdims=True)
    rgb -= grey
    rgb *= np.minimum(photo.colour, 1)[:, None]
    rgb += grey
    rgb *= np.stack([1 + photo.warm, 1 + photo.green, 1 - photo.warm], 1)
    for part in (rgb, rgb.swapaxes(2, 3)) * max(1, canvas.size // 32):
        spread = part[:, :, :-2] + part[:, :, 2:]
        spread -= 2 * part[:, :, 1:-1]
        spread *= 0.25 * photo.blur[:, None]
        part[:, :, 1:-1] += spread
    rgb += 0.17 * photo.noise[:, None] * (grain - 0.5)
    return (np.clip(rgb, 0, 1, out=rgb) * 255 + 0.5).astype(np.uint8)


def obstruct(canvas, i, chance, x, y, lean, shade):
    """Cover part of face i with a face mask, a hand or a thing held before it."""
    edge, kind = canvas.edge[i], chance * 40 % 1
    u, v = canvas.x[i] - 0.6 * x, canvas.y[i] - y
    u, v = u + lean * v, v - lean * u
    if kind < 0.25:
        across, down, _ = (part[i] for part in canvas.normal)
        cover = inside(np.maximum(canvas.rim[i] - 1.02, 0.3 * across * across + 0.3 - down), edge)
        colour, tone = np.array([0.85, 0.95, 1.0], np.float32) * (0.3 + 0.7 * shade), 1.0
    elif kind < 0.6:
        gap = np.maximum(np.abs(np.abs(u / 0.14) % 2 - 1) - 0.6, 0)  # where two fingers meet
        cover = inside(np.maximum(np.abs(u) - 0.42, 0.12 * np.minimum(np.abs(u / 0.28), 1) + 0.25 * gap - v), edge)
        colour, tone = canvas.tone[i], 0.92 - 0.5 * gap * (v < 0.6)
    else:
        cover = inside(np.maximum(np.abs(u) - 0.16 - 0.1 * shade, np.abs(v) - 0.36), edge)
        colour, tone = np.array([shade, 0.8 * shade, 1 - shade]), 1.0
    canvas.rgb[i] += cover * (colour[:, None, None] * tone - canvas.rgb[i])
