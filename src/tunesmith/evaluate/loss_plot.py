"""loss.svg: training and validation loss over steps, as a small self-contained picture.

Colours follow the reader's light or dark setting, all text is in both languages, and nothing is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tunesmith.core.events import Event, Value
from tunesmith.messages import LANGUAGES, both

Point = tuple[int, float]

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44
_MOST_POINTS = 600
_SMOOTH_FROM = 40
"""From this many points on the raw line is drawn pale, with a moving mean over it."""

_STYLE = """
.loss-plot{--ink:#46515c;--grid:#dfe4e8;--train:#2b7a8c;--validation:#b4541a;font:12px system-ui,-apple-system,
"Segoe UI","PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
@media (prefers-color-scheme:dark){.loss-plot{--ink:#b4bec8;--grid:#333c45;--train:#6cc3d5;--validation:#f0a36b}}
@media print{.loss-plot{--ink:#46515c;--grid:#dfe4e8;--train:#2b7a8c;--validation:#b4541a}}
.loss-plot text{fill:var(--ink)}.loss-plot .grid{stroke:var(--grid)}
.loss-plot .train{stroke:var(--train);fill:none;stroke-width:2;stroke-linejoin:round}
.loss-plot .raw{opacity:.3;stroke-width:1}
.loss-plot .validation{stroke:var(--validation);fill:none;stroke-width:2;stroke-linejoin:round}
.loss-plot .dot{fill:var(--validation)}.loss-plot .best{stroke:var(--ink);stroke-dasharray:3 4}
""".strip()


@dataclass(frozen=True)
class LossCurve:
    """Loss by optimizer step, in the order of steps; `best_step` is where the chosen checkpoint was taken."""

    train: tuple[Point, ...] = ()
    validation: tuple[Point, ...] = ()
    best_step: int | None = None


def curve_from_events(events: Iterable[Event], best_step: int | None = None) -> LossCurve:
    """The curve of a run's events: kinds `step` and `validation` with the values `step` and `loss`.

    A step that stands twice (after a resume) counts once, with its last value; a loss that is no finite number is
    left out of the line. Where a step tells the loss of the task apart, that is what a validation is compared with.
    Stages in a row follow one another; `best_step` is one of the last.
    """
    found: dict[str, dict[int, float]] = {"step": {}, "validation": {}}
    stage: Value = None
    before = 0
    for event in events:
        step, loss = event.values.get("step"), event.values.get("task", event.values.get("loss"))
        if event.kind in found and isinstance(step, int) and isinstance(loss, int | float) and math.isfinite(loss):
            if event.values.get("stage") != stage:
                stage, before = event.values.get("stage"), max((0, *found["step"], *found["validation"]))
            found[event.kind][before + step] = float(loss)
    best = None if best_step is None else before + best_step
    return LossCurve(tuple(sorted(found["step"].items())), tuple(sorted(found["validation"].items())), best)


def loss_svg(curve: LossCurve) -> str:
    """The picture as SVG text. A curve without points gives a picture that says so."""
    shown = [point for line in (curve.train, curve.validation) for point in line if math.isfinite(point[1])]
    title = _words("plot_title")
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" class="loss-plot" role="img">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    )
    if not shown:
        text = escape(_words("plot_empty"))
        return f'{head}<text x="{_WIDTH // 2}" y="{_HEIGHT // 2}" text-anchor="middle">{text}</text></svg>\n'
    frame = _Frame.around(shown)
    body = [*_grid(frame), *_legend(curve), *_lines(curve, frame)]
    return head + "".join(body) + "</svg>\n"


def _words(name: str) -> str:
    return " · ".join(both(f"evaluate.{name}")[language] for language in LANGUAGES)


@dataclass(frozen=True)
class _Frame:
    """Range of the axes: steps from `first` to `last`, losses from `low` to `high`."""

    first: int
    last: int
    low: float
    high: float

    @classmethod
    def around(cls, points: Sequence[Point]) -> _Frame:
        first, last = min(step for step, _ in points), max(step for step, _ in points)
        low, high = min(loss for _, loss in points), max(loss for _, loss in points)
        low = min(low, 0.0) if low < 0.35 * high else low
        room = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(first, max(last, first + 1), low - room if low else 0.0, high + room)

    def x(self, step: float) -> float:
        return _LEFT + (step - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, loss: float) -> float:
        return _TOP + (self.high - loss) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)


def _ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Round values inside the range, at most `most` + 1 of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    gap = max(gap, 1.0) if whole else gap
    first = math.ceil(low / gap - 1e-9)
    return [index * gap for index in range(first, math.floor(high / gap + 1e-9) + 1)]


def _grid(frame: _Frame) -> list[str]:
    parts = []
    for value in _ticks(frame.low, frame.high, 5):
        y = frame.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value in _ticks(frame.first, frame.last, 8, whole=True):
        x, y = frame.x(value), _HEIGHT - _BOTTOM
        parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{value:.0f}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(_words("plot_steps"))}</text>')
    return parts


def _legend(curve: LossCurve) -> list[str]:
    parts = []
    x = float(_LEFT)
    for name, points in (("train", curve.train), ("validation", curve.validation)):
        if points:
            text = _words(f"plot_{name}")
            parts.append(f'<path class="{name}" d="M{x:.0f} 18h20"/>')
            parts.append(f'<text x="{x + 27:.0f}" y="22">{escape(text)}</text>')
            x += 27 + 20 + sum(13 if ord(character) > 0x2E7F else 7 for character in text)
    return parts


def _lines(curve: LossCurve, frame: _Frame) -> list[str]:
    parts = []
    if curve.best_step is not None and frame.first <= curve.best_step <= frame.last:
        x = frame.x(curve.best_step)
        parts.append(f'<path class="best" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>')
        anchor, shift = ("end", -6) if x > _WIDTH * 0.6 else ("start", 6)
        text = escape(_words("plot_best"))
        parts.append(f'<text x="{x + shift:.1f}" y="{_TOP + 8}" text-anchor="{anchor}">{text}</text>')
    train = _thin([point for point in curve.train if math.isfinite(point[1])])
    smooth = _smooth(train)
    if smooth:
        parts.append(f'<path class="train raw" d="{_path(train, frame)}"/>')
    parts.append(f'<path class="train" d="{_path(smooth or train, frame)}"/>')
    validation = [point for point in curve.validation if math.isfinite(point[1])]
    parts.append(f'<path class="validation" d="{_path(validation, frame)}"/>')
    if len(validation) <= _SMOOTH_FROM:
        dots = ((frame.x(step), frame.y(loss)) for step, loss in validation)
        parts.extend(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in dots)
    return parts


def _path(points: Sequence[Point], frame: _Frame) -> str:
    return "".join(
        f"{'L' if index else 'M'}{frame.x(step):.1f} {frame.y(loss):.1f}" for index, (step, loss) in enumerate(points)
    )


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most `_MOST_POINTS` points: each the mean of its neighbours."""
    size = math.ceil(len(points) / _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(group[len(group) // 2][0], sum(loss for _, loss in group) / len(group)) for group in groups]


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Moving mean over a twentieth of the points, narrower at the ends; nothing when there are few points."""
    if len(points) < _SMOOTH_FROM:
        return []
    widest = max(2, len(points) // 40)
    smooth = []
    for index, (step, _) in enumerate(points):
        reach = min(widest, index, len(points) - 1 - index)
        window = points[index - reach : index + reach + 1]
        smooth.append((step, sum(loss for _, loss in window) / len(window)))
    return smooth
