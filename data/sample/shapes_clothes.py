"""Clothes as drawings. Each function takes the product's random stream and `size` (0 smallest of a brand .. 1 largest)."""

from __future__ import annotations

import numpy as np

from .drawing import Drawing, arc, band, both, box, curve, mirror

Rng = np.random.Generator


def _between(low: float, high: float, size: float) -> float:
    return low + (high - low) * size


def _sleeves(d: Drawing, rng: Rng, width: float, length: float, upper: float, cuff: float, spread: float) -> None:
    """Two sleeves from shoulders at (+-width, 0.12); `spread` in radians from hanging straight down."""
    for side in (1, -1):
        angle = spread + rng.uniform(-0.06, 0.06)
        along = np.array([np.sin(angle), np.cos(angle)])
        across = np.array([np.cos(angle), -np.sin(angle)])
        top = np.array([width - 0.04, 0.12])
        end = top + along * length
        elbow = top + along * length * 0.5 + across * (upper * 0.5 + cuff * 0.5) * 0.05
        points = [
            top,
            elbow + across * 0.02,
            end + across * 0.02,
            end - across * cuff,
            elbow - across * (upper + cuff) / 2,
            top + along * upper - across * upper * 0.8,
        ]
        pairs = [(float(side * x), float(y)) for x, y in points]
        d.fill(pairs, 0.94)
        inset = along * 0.07
        d.seam(
            [
                (side * (end - inset + across * 0.02)[0], (end - inset)[1]),
                (side * (end - inset - across * cuff)[0], (end - inset - across * cuff)[1]),
            ]
        )


def _hanger(d: Drawing, rng: Rng, width: float) -> None:
    """Now and then the garment hangs: a hook above the neck."""
    if rng.random() < 0.25:
        hook = curve([(0.0, 0.05), (0.0, -0.16), (0.07, -0.22), (0.07, -0.3), (0.0, -0.34), (-0.06, -0.3)])
        d.accent(band(hook, 0.03), "hook")
        for side in (1, -1):
            d.accent(band(np.array([(0.0, 0.0), (side * width * 0.3, 0.05)]), 0.035), "hook")


def _body(d: Drawing, width: float, length: float, hem: float, neck: float, dip: float, waist: float = 1.0) -> None:
    """The trunk of a top: neck hole, shoulders at y 0.12, arm holes, waist and hem."""
    half = [
        (neck, 0.0),
        (width, 0.12),
        (width * 0.97, 0.52),
        (width * waist, 0.52 + (length - 0.52) * 0.45),
        (hem, length - 0.02),
        (hem * 0.5, length + 0.015),
    ]
    collar = [(float(x), float(y)) for x, y in arc(0, 0, neck, dip, 0.5, 0.0, 9)]
    d.fill(arc(0, 0.0, neck, dip, 0, 0.5, 9), 0.45)
    d.fill([*both(half)[:-1], (-neck, 0.0), *collar[1:-1]])
    hem_line = length - 0.07
    d.seam([(-hem * 0.98, hem_line), (hem * 0.98, hem_line + 0.01)], 0.01, 0.75)


def _top(d: Drawing, rng: Rng, size: float, short: float, long: float) -> tuple[float, float, float]:
    """Common proportions of a top: (half width, length, half neck)."""
    width = rng.uniform(0.5, 0.6)
    return width, _between(short, long, size) * rng.uniform(0.95, 1.05), rng.uniform(0.15, 0.22)


def tshirt(rng: Rng, size: float) -> Drawing:
    """Short sleeves, round or V neck; a tunic is half as long again."""
    d = Drawing()
    width, length, neck = _top(d, rng, size, 1.1, 2.1)
    _sleeves(d, rng, width, rng.uniform(0.3, 0.42), 0.38, rng.uniform(0.27, 0.33), rng.uniform(0.5, 0.95))
    dip = rng.uniform(0.08, 0.2)
    _body(d, width, length, width * rng.uniform(0.93, 1.08), neck, dip, rng.uniform(0.9, 1.0))
    _hanger(d, rng, width)
    d.seam(arc(0, 0, neck + 0.05, dip + 0.055, 0.0, 0.5), 0.014, 0.7)
    d.logo = (0.0, 0.5, 0.24)
    return d


def shirt(rng: Rng, size: float) -> Drawing:
    """Collar, button line, chest pocket; long or short sleeves."""
    d = Drawing()
    width, length, neck = _top(d, rng, size, 1.15, 2.3)
    long = rng.random() < 0.7
    reach = rng.uniform(1.0, 1.15) if long else rng.uniform(0.36, 0.45)
    _sleeves(d, rng, width, reach, 0.36, 0.2 if long else 0.32, rng.uniform(0.15, 0.5) if long else rng.uniform(0.5, 0.9))
    _body(d, width, length, width * rng.uniform(0.95, 1.08), neck, 0.12, rng.uniform(0.9, 1.0))
    d.seam([(-0.045, 0.14), (-0.045, length)], 0.012, 0.7)
    d.seam([(0.045, 0.14), (0.045, length)], 0.016, 0.55)
    collar = [(neck * 1.05, -0.04), (neck * 0.2, 0.13), (neck * 0.75, 0.3), (neck * 1.55, 0.07)]
    for flap in (collar, mirror(collar)):
        d.fill(flap, 1.1)
    for y in np.linspace(0.24, length - 0.14, int(length * 5)):
        d.button(0.0, float(y), 0.026)
    if rng.random() < 0.7:
        d.seam([(0.14, 0.42), (0.36, 0.42), (0.36, 0.63), (0.25, 0.68), (0.14, 0.63), (0.14, 0.42)], 0.014, 0.6)
    _hanger(d, rng, width)
    d.logo = (-0.26, 0.55, 0.19)
    return d


def sweater(rng: Rng, size: float) -> Drawing:
    """Long sleeves, ribbed neck, cuffs and hem; some open as a cardigan."""
    d = Drawing()
    width, length, neck = _top(d, rng, size, 1.05, 2.2)
    _sleeves(d, rng, width, rng.uniform(0.95, 1.15), 0.4, 0.2, rng.uniform(0.12, 0.5))
    deep = rng.random() < 0.3
    dip = 0.4 if deep else rng.uniform(0.09, 0.14)
    _body(d, width, length, width * rng.uniform(0.85, 0.98), neck, dip, 1.0)
    d.fill(band(arc(0, 0, neck + 0.03, dip + 0.03, 0.0, 0.5), 0.08), 0.8)
    hem = width * 0.86
    d.fill(box(-hem, length - 0.1, hem, length + 0.04), 0.82)
    for x in np.linspace(-hem, hem, 22):
        d.seam([(float(x), length - 0.1), (float(x), length + 0.04)], 0.012, 0.6)
    if deep:
        d.seam([(0.0, dip), (0.0, length)], 0.02, 0.45)
        for y in np.linspace(dip + 0.1, length - 0.2, 5):
            d.button(0.04, float(y), 0.034)
    _hanger(d, rng, width)
    d.logo = (0.0 if not deep else -0.27, 0.55, 0.22 if not deep else 0.19)
    return d


def coat(rng: Rng, size: float) -> Drawing:
    """Open front with lapels or a hood, buttons or zip, pockets, belt; a jacket or down to the calf."""
    d = Drawing()
    width, length, neck = _top(d, rng, size, 1.25, 2.8)
    width += 0.08
    sleeveless = rng.random() < 0.12
    if not sleeveless:
        _sleeves(d, rng, width, rng.uniform(1.05, 1.2), 0.42, 0.25, rng.uniform(0.08, 0.35))
    hem = width * (rng.uniform(0.95, 1.05) + 0.25 * size)
    _body(d, width, length, hem, neck, 0.1, rng.uniform(0.86, 0.98))
    lapels = rng.random() < 0.7
    if lapels:
        _lapels_and_buttons(d, neck, length, 3 + int(size * 2))
    else:
        _hood_and_zip(d, neck, length)
    d.seam([(0.03, 0.7), (0.05, length)], 0.022, 0.45)
    if lapels and rng.random() < 0.6:
        _coat_belt(d, width, length)
    _pockets(d, min(length * 0.66, 1.35))
    _hanger(d, rng, width)
    d.logo = (-0.33, 0.62, 0.18)
    return d


def _lapels_and_buttons(d: Drawing, neck: float, length: float, rows: int) -> None:
    collar = [(neck * 1.1, -0.06), (neck * 1.9, 0.12), (neck * 2.1, 0.32)]
    lapel = [*collar, (neck * 1.5, 0.36), (0.02, 0.72), (neck * 0.35, 0.1)]
    d.fill(mirror(lapel), 1.14)
    d.fill(lapel, 1.14)
    d.fill([(neck * 0.6, 0.0), (0.02, 0.68), (-neck * 0.6, 0.0)], 0.4)
    for y in np.linspace(0.82, length - 0.3, rows):
        for x in (-0.17, 0.17):
            d.button(x, float(y), 0.045)


def _hood_and_zip(d: Drawing, neck: float, length: float) -> None:
    left, right = [(-neck * 1.3, 0.1), (-neck * 1.2, -0.14)], [(neck * 1.2, -0.14), (neck * 1.3, 0.1)]
    d.fill(curve([*left, (0, -0.2), *right, (0, 0.2)], True), 0.75)
    d.seam([(0.0, 0.1), (0.0, length)], 0.05, 0.35)
    d.accent(box(-0.012, 0.2, 0.012, length - 0.02), "metal")


def _coat_belt(d: Drawing, width: float, length: float) -> None:
    y = 0.52 + (min(length, 1.6) - 0.52) * 0.5
    d.fill(box(-width * 0.97, y - 0.05, width * 0.97, y + 0.06), 0.72)
    d.accent(box(-0.08, y - 0.08, 0.08, y + 0.09), "metal")
    d.accent(box(-0.045, y - 0.045, 0.045, y + 0.055), "dark")


def _pockets(d: Drawing, y: float) -> None:
    for side in (1, -1):
        corners = [(0.28, y), (0.5, y + 0.02), (0.49, y + 0.1), (0.28, y + 0.08), (0.28, y)]
        d.seam([(side * x, height) for x, height in corners], 0.016, 0.5)


def dress(rng: Rng, size: float) -> Drawing:
    """Fitted top, waist, flared skirt; straps, no sleeves or short ones; above the knee or to the floor."""
    d = Drawing()
    width, neck = rng.uniform(0.36, 0.44), rng.uniform(0.16, 0.24)
    length = _between(1.35, 2.9, size) * rng.uniform(0.96, 1.04)
    waist_y, waist = rng.uniform(0.62, 0.8), width * rng.uniform(0.72, 0.88)
    hem = _between(0.55, 0.75, size) * rng.uniform(0.85, 1.25)
    kind = rng.choice(["straps", "none", "sleeves"], p=[0.25, 0.35, 0.4])
    if kind == "sleeves":
        _sleeves(d, rng, width, rng.uniform(0.25, 0.55), 0.3, 0.24, rng.uniform(0.4, 0.9))
    top = 0.3 if kind == "straps" else 0.0
    dip = rng.uniform(0.12, 0.3)
    if kind == "straps":
        for side in (1, -1):
            d.fill(box(side * width * 0.6 - 0.03, 0, side * width * 0.6 + 0.03, 0.36), 0.9)
        bust = [(width * 0.3, top + 0.06), (width * 0.6, top), (width * 0.92, top + 0.1)]
    else:
        bust = [(neck, 0.0), (width * 0.92, 0.07), (width * 0.86, 0.3), (width, 0.45)]
        d.fill(arc(0, 0.0, neck, dip, 0, 0.5, 9), 0.45)
    half = [*bust, (waist, waist_y), (waist * 1.25, waist_y + 0.25), (hem, length - 0.05), (hem * 0.5, length + 0.03)]
    scoop = [] if kind == "straps" else [(float(x), float(y)) for x, y in arc(0, 0, neck, dip, 0.5, 0.0, 9)][1:-1]
    d.fill(both(half) + scoop)
    d.fill(box(-waist, waist_y - 0.04, waist, waist_y + 0.05), 0.7)
    for x in np.linspace(-0.8, 0.8, int(rng.integers(3, 8))):
        d.seam([(waist * float(x), waist_y + 0.08), (hem * float(x), length - 0.04)], 0.022, 0.7)
    d.seam([(-hem * 0.95, length - 0.1), (0, length - 0.05), (hem * 0.95, length - 0.1)], 0.012, 0.7)
    d.logo = (0.0, waist_y + 0.42, 0.21)
    return d


def skirt(rng: Rng, size: float) -> Drawing:
    """Waistband and flare, pleats or a button line; mini or maxi."""
    d = Drawing()
    waist = rng.uniform(0.42, 0.52)
    length = _between(0.78, 1.85, size) * rng.uniform(0.94, 1.06)
    hem = waist * _between(1.35, 1.7, size) * rng.uniform(0.85, 1.2)
    d.fill(both([(waist, 0.0), (waist * 1.08, 0.2), (hem, length - 0.04), (hem * 0.5, length + 0.03)]))
    d.fill(box(-waist, -0.02, waist, 0.11), 0.78)
    d.seam([(-waist, 0.11), (waist, 0.11)], 0.02, 0.5)
    if rng.random() < 0.65:
        for x in np.linspace(-0.85, 0.85, int(rng.integers(5, 11))):
            d.seam([(waist * float(x), 0.13), (hem * float(x), length)], 0.026, 0.66)
    else:
        d.seam([(0.05, 0.12), (0.05, length)], 0.016, 0.55)
        for y in np.linspace(0.2, length - 0.12, int(3 + 4 * length)):
            d.button(0.0, float(y), 0.03)
        for side in (1, -1):
            d.seam([(side * waist * 0.95, 0.32), (side * waist * 0.5, 0.16)], 0.016, 0.55)
    d.logo = (-0.02, length * 0.6, 0.19)
    return d


def _legs(d: Drawing, rng: Rng, waist: float, length: float, hem: float, gap: float, crotch: float) -> None:
    for side in (1, -1):
        inner, lean = gap, rng.uniform(-0.03, 0.05)
        outer = inner + hem + lean
        leg = [
            (0.0, 0.0),
            (waist, 0.0),
            (waist * 1.13, 0.36),
            ((waist * 1.1 + outer) / 2 if length > 1.2 else waist * 1.12, crotch + (length - crotch) * 0.45),
            (outer, length),
            (inner + lean, length + 0.015),
            (0.03, crotch + 0.03),
            (0.0, crotch),
        ]
        d.fill([(side * x, y) for x, y in leg], 1.0 if side == 1 else 0.95)
        d.seam([(side * (inner + lean), length - 0.06), (side * outer, length - 0.07)], 0.014, 0.65)
    d.fill(box(-waist, -0.03, waist, 0.09), 0.8)
    d.seam([(0.0, 0.09), (0.0, crotch)], 0.022, 0.5)
    for x in (-0.75, -0.35, 0.35, 0.75):
        d.fill(box(waist * x - 0.02, -0.05, waist * x + 0.02, 0.12), 1.2)
    for side in (1, -1):
        d.seam([(side * waist * 1.08, 0.32), (side * waist * 0.5, 0.11)], 0.018, 0.55)
    if rng.random() < 0.5:
        d.button(0.0, 0.03, 0.036, "metal")
    else:
        for side in (1, -1):
            d.accent(band(curve([(side * 0.02, 0.06), (side * 0.08, 0.2), (side * 0.05, 0.36)]), 0.022), "button")


def trousers(rng: Rng, size: float) -> Drawing:
    """Two long legs, slim or wide."""
    d = Drawing()
    waist = rng.uniform(0.4, 0.47)
    length = rng.uniform(1.95, 2.25)
    hem = _between(0.17, 0.66, size) * rng.uniform(0.92, 1.08)
    _legs(d, rng, waist, length, hem, rng.uniform(0.06, 0.14), rng.uniform(0.52, 0.62))
    if rng.random() < 0.3:
        for side in (1, -1):
            d.seam([(side * 0.3, 0.7), (side * (0.14 + hem / 2), length - 0.08)], 0.016, 0.75)
    d.logo = (0.28, 0.62, 0.17)
    return d


def shorts(rng: Rng, size: float) -> Drawing:
    """Two short legs; bermudas end at the knee."""
    d = Drawing()
    waist = rng.uniform(0.46, 0.54)
    length = _between(0.7, 1.25, size) * rng.uniform(0.94, 1.06)
    _legs(d, rng, waist, length, rng.uniform(0.42, 0.52), rng.uniform(0.05, 0.1), rng.uniform(0.48, 0.54))
    d.logo = (0.34, length * 0.7, 0.16)
    return d
