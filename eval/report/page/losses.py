"""Two trainings' loss curves as inline SVG."""

from __future__ import annotations

from markupsafe import Markup

from ...compare.trainings import Trainings

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 240, 56, 28


def draw_losses(found: Trainings) -> Markup:
    """Loss over steps of both trainings, on the same axes; validation loss dashed. Empty where a log is lacking."""
    curves = [
        (css, curve)
        for css, curve in (
            ("a", found.a.loss), ("b", found.b.loss), ("a validation", found.a.val_loss), ("b validation", found.b.val_loss)
        )
        if curve
    ]  # fmt: skip
    if not found.a.loss or not found.b.loss:
        return Markup("")
    last = max(step for _, curve in curves for step, _ in curve)
    most = max(value for _, curve in curves for _, value in curve) or 1.0

    def place(step: int, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT) * step / max(last, 1)
        return f"{x:.1f},{8 + (_HEIGHT - _BOTTOM - 8) * (1 - max(value, 0.0) / most):.1f}"

    bottom = _HEIGHT - _BOTTOM
    shapes = [f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y}" y2="{y}"/>' for y in (8, bottom)]
    shapes += [f'<polyline class="{css}" points="{" ".join(place(*point) for point in curve)}"/>' for css, curve in curves]
    shapes += [
        f'<text x="{_LEFT - 6}" y="14" text-anchor="end">{most:.3g}</text>',
        f'<text x="{_LEFT - 6}" y="{bottom + 4}" text-anchor="end">0</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">loss over steps; validation dashed</text>',
        f'<text x="{_WIDTH}" y="{_HEIGHT - 8}" text-anchor="end">step {last:,}</text>',
    ]
    title = "<title>Loss of both trainings over their steps</title>"
    return Markup(f'<svg class="losses" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{title}{"".join(shapes)}</svg>')
