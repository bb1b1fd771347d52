"""Small self-contained pictures for the data card: horizontal bars, and how rows spread over their lengths.

Colours follow the reader's light or dark setting, every text is escaped, and nothing is fetched.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH = 720
_STYLE = """
.data-plot{--ink:#46515c;--grid:#dfe4e8;--one:#2b7a8c;--two:#b4541a;--three:#6b5fa8;width:100%;height:auto;
font:12px system-ui,-apple-system,"Segoe UI","PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
@media (prefers-color-scheme:dark){.data-plot{--ink:#b4bec8;--grid:#333c45;--one:#6cc3d5;--two:#f0a36b;--three:#b3a6ea}}
@media print{.data-plot{--ink:#46515c;--grid:#dfe4e8;--one:#2b7a8c;--two:#b4541a;--three:#6b5fa8}}
.data-plot text{fill:var(--ink)}.data-plot .grid{stroke:var(--grid)}.data-plot .one{fill:var(--one)}
.data-plot .line{fill:none;stroke-width:2;stroke-linejoin:round}.data-plot .two{stroke:var(--two)}
.data-plot .three{stroke:var(--three)}.data-plot .track{fill:var(--grid);opacity:.5}
""".strip().replace("\n", "")
_LABEL_WIDTH, _ROW_HEIGHT, _WIDEST_LABEL = 240, 24, 31
_BINS = 24
_TOP, _BOTTOM, _LEFT, _RIGHT, _HEIGHT = 34, 40, 52, 26, 220
_MARKS = ("one", "two", "three")


def bars(title: str, values: Sequence[tuple[str, float]], figures: Sequence[str]) -> str:
    """One horizontal bar a value, the longest as wide as there is room; `figures` stand behind them."""
    most = max((value for _, value in values), default=0) or 1
    room = _WIDTH - _LABEL_WIDTH - 110
    parts = []
    for place, ((name, value), figure) in enumerate(zip(values, figures, strict=True)):
        y = place * _ROW_HEIGHT
        wide = max(value / most * room, 1.5 if value else 0)
        parts += [
            f'<text x="{_LABEL_WIDTH - 10}" y="{y + 16}" text-anchor="end">{escape(shortened(name))}</text>',
            f'<rect class="track" x="{_LABEL_WIDTH}" y="{y + 5}" width="{room}" height="14" rx="3"/>',
            f'<rect class="one" x="{_LABEL_WIDTH}" y="{y + 5}" width="{wide:.1f}" height="14" rx="3"/>',
            f'<text x="{_LABEL_WIDTH + room + 8}" y="{y + 16}">{escape(figure)}</text>',
        ]
    return _picture(title, len(values) * _ROW_HEIGHT + 4, parts)


def spread(title: str, axis: str, lengths: Mapping[str, Sequence[int]]) -> str:
    """Shares of rows by length, a colour a table: the first as bars, the others as lines. Bins grow by a factor."""
    shown = {name: values for name, values in lengths.items() if values}
    if not shown:
        return ""
    edges = _edges(min(map(min, shown.values())), max(map(max, shown.values())))
    shares = {name: _shares(values, edges) for name, values in shown.items()}
    most = max(map(max, shares.values())) or 1.0
    parts = [*_axes(edges, most, axis), *_legend(list(shares))]
    for mark, share in zip(_MARKS, shares.values(), strict=False):
        points = [(_x(place, len(edges) - 1), _y(each, most)) for place, each in enumerate(share)]
        parts += _columns(points, len(edges) - 1) if mark == "one" else [_steps(points, mark, len(edges) - 1)]
    return _picture(title, _HEIGHT, parts)


def shortened(name: str) -> str:
    """A name that fits beside a bar; a Chinese character is as wide as two letters."""
    wide = 0
    for place, sign in enumerate(name):
        wide += 2 if unicodedata.east_asian_width(sign) in "WF" else 1
        if wide > _WIDEST_LABEL:
            return name[:place] + "…"
    return name


def _picture(title: str, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" class="data-plot" role="img">'
    return f"{head}<title>{escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</svg>"


def _edges(low: int, high: int) -> list[float]:
    """Borders of the bins: whole numbers where lengths are few, else by a constant factor."""
    if high - low < _BINS:
        return [float(each) for each in range(low, high + 2)]
    low, high = max(low, 1), high + 1
    return [low * (high / low) ** (place / _BINS) for place in range(_BINS + 1)]


def _shares(values: Sequence[int], edges: Sequence[float]) -> list[float]:
    counts = [0] * (len(edges) - 1)
    for value in values:
        place = next((each for each in range(len(counts)) if value < edges[each + 1]), len(counts) - 1)
        counts[place] += 1
    return [count / len(values) for count in counts]


def _x(place: float, bins: int) -> float:
    return _LEFT + place / bins * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float, most: float) -> float:
    return _TOP + (1 - share / most) * (_HEIGHT - _TOP - _BOTTOM)


def _columns(points: Sequence[tuple[float, float]], bins: int) -> list[str]:
    wide, floor = (_WIDTH - _LEFT - _RIGHT) / bins - 1.5, _HEIGHT - _BOTTOM
    return [
        f'<rect class="one" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{floor - y:.1f}" opacity=".75"/>'
        for x, y in points
    ]


def _steps(points: Sequence[tuple[float, float]], mark: str, bins: int) -> str:
    wide = (_WIDTH - _LEFT - _RIGHT) / bins
    path = "".join(f"{'L' if place else 'M'}{x:.1f} {y:.1f}H{x + wide:.1f}" for place, (x, y) in enumerate(points))
    return f'<path class="line {mark}" d="{path}"/>'


def _axes(edges: Sequence[float], most: float, axis: str) -> list[str]:
    parts = []
    for share in (0.0, most / 2, most):
        y = _y(share, most)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    bins = len(edges) - 1
    for place in range(0, bins + 1, max(1, math.ceil(bins / 8))):
        x = _x(place, bins)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{edges[place]:,.0f}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(axis)}</text>')
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts, x = [], _LEFT
    for mark, name in zip(_MARKS, names, strict=False):
        style = f'class="{mark}"' if mark == "one" else f'class="line {mark}"'
        sign = f'<rect {style} x="{x}" y="10" width="18" height="8"/>' if mark == "one" else (
            f'<path {style} d="M{x} 14h18"/>'
        )  # fmt: skip
        parts += [sign, f'<text x="{x + 25}" y="18">{escape(name)}</text>']
        x += 25 + 24 + sum(13 if ord(each) > 0x2E7F else 7 for each in name)
    return parts
