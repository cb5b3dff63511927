"""Shoes, hats, bags, scarves and belts as drawings; the same form as `shapes_clothes`."""

from __future__ import annotations

import numpy as np

from .drawing import Drawing, arc, band, both, box, curve, disc

Rng = np.random.Generator


def _between(low: float, high: float, size: float) -> float:
    return low + (high - low) * size


def sneakers(rng: Rng, size: float) -> Drawing:
    """A low shoe from the side: white sole, toe cap, laces; platforms have a sole three times as thick."""
    d = Drawing()
    sole = _between(0.13, 0.48, size) * rng.uniform(0.92, 1.08)
    ankle = rng.uniform(0.62, 0.78)
    base = 0.0
    upper = curve(
        [
            (-0.95, base),
            (-0.98, -0.3),
            (-0.9, -ankle),
            (-0.5, -ankle + 0.06),
            (-0.25, -ankle + 0.12),
            (0.3, -0.36),
            (0.8, -0.26),
            (1.0, -0.1),
            (1.0, base),
        ]
    )
    d.fill(upper)
    d.fill(curve([(-0.86, -ankle + 0.02), (-0.68, -ankle + 0.13), (-0.48, -ankle + 0.07), (-0.7, -ankle + 0.02)], True), 0.4)
    d.fill(curve([(0.58, base), (0.6, -0.2), (0.75, -0.27), (1.0, -0.1), (1.0, base)]), 0.82)
    d.seam(curve([(-0.92, -0.42), (-0.6, -0.3), (-0.62, base)]), 0.03, 0.6)
    d.seam(curve([(-0.3, base), (-0.1, -0.25), (0.1, -0.42)]), 0.03, 0.6)
    for t in np.linspace(0.0, 1.0, 5):
        x, y = -0.3 + 0.62 * t, -ankle + 0.16 + (ankle - 0.52) * t
        d.accent(band(np.array([(x - 0.06, y - 0.02), (x + 0.05, y + 0.13)]), 0.045), "lace")
    toe = min(0.1, sole * 0.5)
    tread = [
        (-1.03, -0.04),
        (1.05, -0.06),
        (1.09, sole * 0.3),
        (1.06 - toe, sole),
        (-1.0 + toe * 0.4, sole),
        (-1.05, sole * 0.5),
    ]
    d.accent(tread, "sole")
    d.accent(box(-1.0, sole - 0.04, 1.06 - toe, sole + 0.015), "dark")
    d.logo = (-0.06, -0.2, 0.17)
    return d


def boots(rng: Rng, size: float) -> Drawing:
    """A boot from the side: shaft, heel block, dark sole; to the ankle or to the knee."""
    d = Drawing()
    shaft = _between(0.85, 2.1, size) * rng.uniform(0.95, 1.05)
    calf = rng.uniform(0.36, 0.44)
    d.fill(
        curve(
            [
                (-0.62, 0.0),
                (-0.64, -0.3),
                (-0.55, -0.55),
                (-0.38 - calf * 0.6, -shaft),
                (-0.38 + calf * 1.15, -shaft),
                (0.02, -0.6),
                (0.2, -0.42),
                (0.62, -0.34),
                (0.88, -0.12),
                (0.86, 0.0),
            ]
        )
    )
    d.fill(disc(-0.38 + calf * 0.27, -shaft, calf * 0.88, 0.06), 0.4)
    d.seam(curve([(-0.6, -0.4), (-0.2, -0.32), (0.1, -0.5)]), 0.022, 0.6)
    d.seam([(-0.3, -shaft + 0.08), (-0.26, -0.36)], 0.024, 0.55)
    heel = rng.uniform(0.12, 0.3)
    d.accent([(-0.66, -0.02), (0.9, -0.02), (0.9, 0.06), (-0.14, 0.07), (-0.2, heel), (-0.62, heel)], "dark")
    if rng.random() < 0.4:
        y = -0.52
        d.accent(band(np.array([(-0.58, y), (0.02, y - 0.02)]), 0.07), "dark")
        d.accent(box(-0.3, y - 0.07, -0.16, y + 0.05), "metal")
    d.logo = (-0.12 + 0.0 * shaft, -shaft * 0.55 - 0.18, 0.18)
    return d


def hat(rng: Rng, size: float) -> Drawing:
    """Small: a peaked cap or a beanie. Large: a hat with a wide brim all round."""
    if size > 0.5:
        return _brimmed_hat(rng, size)
    return _beanie(rng) if rng.random() < 0.3 else _cap(rng)


def _brimmed_hat(rng: Rng, size: float) -> Drawing:
    d = Drawing()
    brim = _between(0.9, 1.25, size) * rng.uniform(0.95, 1.05)
    tall = rng.uniform(0.6, 0.75)
    d.fill(disc(0, 0.02, brim, brim * rng.uniform(0.24, 0.34), 32), 0.88)
    right_edge = [(0.0, -tall * 0.93), (0.25, -tall), (0.48, -tall * 0.75), (0.52, 0.0)]
    d.fill(curve([(-0.52, 0.0), (-0.48, -tall * 0.75), (-0.25, -tall), *right_edge, (0, 0.12)], True))
    d.accent(band(arc(0, -0.04, 0.52, 0.12, 0.0, 0.5), 0.1), "dark")
    d.logo = (0.0, -tall * 0.45, 0.19)
    return d


def _beanie(rng: Rng) -> Drawing:
    d = Drawing()
    tall = rng.uniform(0.85, 1.1)
    d.fill(curve([(-0.55, 0.0), (-0.52, -tall * 0.6), (-0.2, -tall), (0.2, -tall), (0.52, -tall * 0.6), (0.55, 0.0)]))
    d.fill(curve([(-0.58, -0.24), (0, -0.2), (0.58, -0.24), (0.58, 0.06), (0, 0.1), (-0.58, 0.06)], True), 0.8)
    for x in np.linspace(-0.5, 0.5, 14):
        d.seam([(float(x), -0.2), (float(x), 0.07)], 0.014, 0.6)
    if rng.random() < 0.5:
        d.accent(disc(0, -tall - 0.08, 0.17), "lace")
    d.logo = (0.0, -tall * 0.52, 0.19)
    return d


def _cap(rng: Rng) -> Drawing:
    d = Drawing()
    tall = rng.uniform(0.68, 0.85)
    right_edge = [(0.3, -tall * 0.95), (0.58, -tall * 0.55), (0.6, 0.0)]
    d.fill(curve([(-0.6, 0.0), (-0.58, -tall * 0.55), (-0.3, -tall * 0.95), (0.0, -tall), *right_edge, (0, 0.06)], True))
    for bend in (-0.36, 0.0, 0.36):
        d.seam(curve([(0.0, -tall), (bend * 1.1, -tall * 0.6), (bend, 0.0)]), 0.018, 0.6)
    peak = rng.uniform(0.3, 0.45)
    front = [(0.66, peak * 0.55), (0.3, peak), (-0.3, peak), (-0.66, peak * 0.55)]
    d.fill(curve([(-0.6, -0.05), (0.0, -0.16), (0.6, -0.05), *front], True), 0.72)
    d.seam(curve([(-0.57, peak * 0.4), (-0.25, peak * 0.8), (0.25, peak * 0.8), (0.57, peak * 0.4)]), 0.016, 0.6)
    d.button(0.0, -tall, 0.05)
    d.logo = (0.0, -tall * 0.5, 0.2)
    return d


def bag(rng: Rng, size: float) -> Drawing:
    """Small: a little pouch with a flap on a long strap. Large: a tote with two short handles."""
    return _tote(rng) if size > 0.5 else _pouch(rng)


def _tote(rng: Rng) -> Drawing:
    d = Drawing()
    width, tall = rng.uniform(0.85, 1.0), rng.uniform(1.1, 1.35)
    for lift, shade in ((0.5, 0.6), (0.42, 0.85)):
        d.fill(band(arc(0, 0.04, width * 0.5, lift, 0.5, 1.0), 0.09), shade)
    d.fill(both([(width, 0.0), (width * 0.9, tall - 0.08), (width * 0.8, tall)]))
    d.fill(box(-width, -0.02, width, 0.1), 0.8)
    for side in (1, -1):
        d.seam([(side * width * 0.5, 0.0), (side * width * 0.5, 0.3)], 0.09, 0.7)
        d.button(side * width * 0.5, 0.22, 0.05, "metal")
    d.seam([(-width * 0.9, tall * 0.8), (width * 0.9, tall * 0.8)], 0.018, 0.55)
    d.logo = (0.0, tall * 0.52, 0.27)
    return d


def _pouch(rng: Rng) -> Drawing:
    d = Drawing()
    width, tall = rng.uniform(0.52, 0.6), rng.uniform(0.55, 0.7)
    d.accent(band(arc(0, 0.06, width * 0.85, rng.uniform(1.1, 1.4), 0.5, 1.0, 24), 0.055), "strap")
    sides = [(width * 1.02, tall * 0.8), (width * 0.8, tall), (-width * 0.8, tall), (-width * 1.02, tall * 0.8)]
    d.fill(curve([(-width, 0.05), (0, 0.0), (width, 0.05), *sides], True), 0.85)
    flap = tall * 0.58
    tongue = [(width * 0.9, flap * 0.8), (0, flap * 1.15), (-width * 0.9, flap * 0.8)]
    d.fill(curve([(-width * 1.03, 0.04), (0, -0.03), (width * 1.03, 0.04), *tongue], True), 1.05)
    d.accent(box(-0.06, flap * 1.0, 0.06, flap * 1.0 + 0.12), "metal")
    for side in (1, -1):
        d.button(side * width * 0.86, 0.06, 0.05, "metal")
    d.logo = (0.0, flap * 0.5, 0.19)
    return d


def scarf(rng: Rng, size: float) -> Drawing:
    """Two tails crossing below a loop, with fringes; short, or a stole half as wide and twice as long."""
    d = Drawing()
    length = _between(0.85, 2.1, size) * rng.uniform(0.95, 1.05)
    width = rng.uniform(0.36, 0.42)
    for side, shade in ((-1, 0.82), (1, 1.0)):
        lean = rng.uniform(0.1, 0.22) * side
        top, end = np.array([-0.12 * side, 0.25]), np.array([-0.12 * side + lean + 0.2 * side, 0.25 + length])
        line = np.linspace(top, end, 4)
        d.fill(band(line, width), shade)
        for t in np.linspace(-0.47, 0.47, 9):
            foot = end + np.array([width * t, 0.0])
            d.fill(band(np.array([foot, foot + np.array([lean * 0.1, 0.16])]), 0.022), 0.9)
        d.seam([(end[0] - width / 2, end[1] - 0.05), (end[0] + width / 2, end[1] - 0.05)], 0.016, 0.6)
    d.fill(curve([(-0.5, 0.0), (0.0, -0.24), (0.5, 0.0), (0.42, 0.26), (0.0, 0.44), (-0.42, 0.26)], True), 1.05)
    d.fill(disc(0, -0.02, 0.3, 0.13), 0.35)
    d.seam(curve([(-0.44, 0.08), (0, 0.3), (0.44, 0.08)]), 0.024, 0.65)
    d.seam(curve([(-0.4, 0.18), (0, 0.4), (0.4, 0.18)]), 0.02, 0.65)
    d.logo = (0.16, 0.62 + 0.2 * size, 0.17)
    return d


def belt(rng: Rng, size: float) -> Drawing:
    """A coiled strap with its buckle in front; a waist belt is three times as wide."""
    d = Drawing()
    width = _between(0.22, 0.72, size) * rng.uniform(0.94, 1.06)
    rx, ry = rng.uniform(0.92, 1.0), rng.uniform(0.26, 0.34)
    back = arc(0, 0, rx, ry, 0.5, 1.0, 24)
    front = arc(0, 0, rx, ry, 0.5, 0.0, 24)
    drop = np.array([0.0, width])
    d.fill(np.concatenate([back, (back + drop)[::-1]]), 0.5)
    d.fill(np.concatenate([front, (front + drop)[::-1]]))
    tail = rng.uniform(0.3, 0.5)
    d.fill(
        [(0.2, ry), (0.2 + tail, ry + 0.0), (0.2 + tail + 0.1, ry + width / 2), (0.2 + tail, ry + width), (0.2, ry + width)],
        1.08,
    )
    edge = min(0.04, width * 0.12)
    for inset in (edge, width - edge):
        d.seam(front + np.array([0.0, inset]), 0.014, 1.5)
    for x in np.linspace(0.3, 0.2 + tail - 0.05, 3):
        d.accent(disc(float(x), ry + width / 2, 0.025), "dark")
    x = -0.05
    d.accent(box(x - 0.2, ry - 0.07, x + 0.2, ry + width + 0.07), "metal")
    d.accent(box(x - 0.13, ry, x + 0.13, ry + width), "dark")
    d.accent(box(x - 0.02, ry + width / 2 - 0.03, x + 0.24, ry + width / 2 + 0.03), "metal")
    d.logo = (-0.52, ry * 0.85 + width / 2, max(0.15, min(0.2, width * 0.45)))
    return d
