"""A product's outline and inner detail as polygons in its own units, before any pixel is drawn.

x runs to the right and y down; a garment is about two units wide. Painter's order: cloth, seams, accents.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Pairs = list[tuple[float, float]]


@dataclass
class Cloth:
    """A closed polygon [N, 2] of the product's material; `shade` 1 leaves the colour as it is, 0.4 is an inside."""

    points: Points
    shade: float = 1.0


@dataclass
class Seam:
    """A line [N, 2] on the cloth, `width` units wide, darker (`shade` < 1) or lighter."""

    points: Points
    width: float = 0.014
    shade: float = 0.6


@dataclass
class Accent:
    """A closed polygon [N, 2] in a trim colour: a button, a sole, a buckle."""

    points: Points
    colour: str


@dataclass
class Drawing:
    """Everything of one product, and where its logo goes: (x, y, radius) in the same units."""

    cloth: list[Cloth] = field(default_factory=list)
    seams: list[Seam] = field(default_factory=list)
    accents: list[Accent] = field(default_factory=list)
    logo: tuple[float, float, float] = (0.0, 0.5, 0.16)

    def fill(self, points: Pairs | Points, shade: float = 1.0) -> None:
        """Add a piece of cloth."""
        self.cloth.append(Cloth(np.asarray(points, np.float64), shade))

    def seam(self, points: Pairs | Points, width: float = 0.014, shade: float = 0.6) -> None:
        """Add a seam."""
        self.seams.append(Seam(np.asarray(points, np.float64), width, shade))

    def accent(self, points: Pairs | Points, colour: str) -> None:
        """Add trim."""
        self.accents.append(Accent(np.asarray(points, np.float64), colour))

    def button(self, x: float, y: float, radius: float, colour: str = "button") -> None:
        """Add a round button."""
        self.accent(disc(x, y, radius), colour)

    def outlines(self) -> list[Points]:
        """Every polygon that hides the ground: cloth, then accents."""
        return [piece.points for piece in self.cloth] + [accent.points for accent in self.accents]

    def bounds(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of cloth and accents."""
        every = np.concatenate(self.outlines())
        (left, top), (right, bottom) = every.min(axis=0), every.max(axis=0)
        return float(left), float(top), float(right), float(bottom)


def both(half: Pairs) -> Pairs:
    """A closed outline from its right half, top to bottom: the half, then its mirror image from the bottom up."""
    return half + [(-x, y) for x, y in reversed(half)]


def mirror(points: Pairs) -> Pairs:
    """The points on the other side of x = 0."""
    return [(-x, y) for x, y in points]


def curve(points: Pairs, closed: bool = False, steps: int = 6) -> Points:
    """A Catmull-Rom line through `points`, `steps` pieces between each two -> [N, 2]."""
    p = np.asarray(points, np.float64)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    line = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    line = line.reshape(-1, 2)
    return line if closed else np.concatenate([line, p[-2:-1]])


def disc(x: float, y: float, rx: float, ry: float | None = None, steps: int = 20) -> Points:
    """An ellipse outline [steps, 2]."""
    angle = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, steps: int = 16) -> Points:
    """Part of an ellipse [steps, 2]; angles in turns, clockwise from the right as y runs down."""
    angle = np.linspace(start, stop, steps) * 2 * np.pi
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def band(line: Points, width: float) -> Points:
    """A strap `width` wide along a line [N, 2] -> a closed outline [2N, 2]."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    side = np.stack([-along[:, 1], along[:, 0]], axis=1) * width / 2
    return np.concatenate([line + side, (line - side)[::-1]])


def box(left: float, top: float, right: float, bottom: float) -> Pairs:
    """A rectangle's corners."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
