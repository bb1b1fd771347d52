"""Keys and values of rows that grow by a token at a time, laid so that attention reads what the rows hold.

Rows of like length stand together in a band: one buffer a layer, with little room to spare, so that a short row is not
read as far as the longest one reaches. Joining, growing and closing up are one operation, laying the bands anew; a row
that leaves is replaced by the last one of its band.

Shape letters: B rows, b rows of a band, G key/value heads, R query heads that share a key head, N = R + 2 heads of a
group (R queries, a key, a value), S size of a head, C columns of a band, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_COLUMN_BLOCK = 32
_BAND_COST = 2048
"""What one more band costs in a layer, in columns of one row that would be read in the same time (measured)."""


@dataclass
class Row:
    """A prompt and its answer: tokens read so far, and by layer their keys and values, [2, G, L or more, S]."""

    number: int
    length: int
    layers: list[Tensor]


@dataclass
class _Band:
    """Rows in one buffer a layer, [2, b or more, G, C, S]; columns that a row does not use hold 0."""

    rows: list[Row]
    columns: int
    layers: list[Tensor] = field(default_factory=list)

    def widen(self) -> None:
        """Make room for more columns."""
        old_columns, self.columns = self.columns, self.columns + _COLUMN_BLOCK
        for layer, old in enumerate(self.layers):
            buffer = self.buffer(old)
            buffer[:, :, :, :old_columns] = old[:, : len(self.rows)]
            self.layers[layer] = buffer
            for place, row in enumerate(self.rows):
                row.layers[layer] = buffer[:, place]

    def buffer(self, like: Tensor) -> Tensor:
        """An empty buffer for one layer, of the kind of [.., G, .., S]."""
        return like.new_zeros(2, len(self.rows), like.shape[-3], self.columns, like.shape[-1])

    def remove(self, place: int) -> None:
        last = self.rows.pop()
        if place < len(self.rows):
            self.rows[place] = last
            for layer, buffer in enumerate(self.layers):
                buffer[:, place] = last.layers[layer]
                last.layers[layer] = buffer[:, place]


def cut_into_bands(lengths: Sequence[int]) -> list[int]:
    """How many rows each band takes, for lengths in rising order, so that all bands together are read soonest."""
    cost, begin = [0], [0]  # of the first n rows, and where their last band begins
    for last in range(1, len(lengths) + 1):
        costs = [cost[first] + _BAND_COST + (last - first) * lengths[last - 1] for first in range(last)]
        cost.append(min(costs))
        begin.append(costs.index(cost[-1]))
    sizes, last = [], len(lengths)
    while last:
        sizes.append(last - begin[last])
        last = begin[last]
    return sizes[::-1]


class Bands:
    """All rows under way."""

    def __init__(self) -> None:
        self._bands: list[_Band] = []
        self._joining: list[Row] = []
        self._laid = 0

    def join(self, rows: Sequence[Row]) -> None:
        """Take rows in with the next token."""
        self._joining += rows

    def remove(self, number: int) -> None:
        """Drop a row."""
        self._joining = [row for row in self._joining if row.number != number]
        for band in self._bands:
            for place, row in enumerate(band.rows):
                if row.number == number:
                    band.remove(place)
                    break
        self._bands = [band for band in self._bands if band.rows]

    def next_token(self) -> NextToken:
        """Room for one more token of every row; all rows are longer by it from now on."""
        rows = [row for band in self._bands for row in band.rows]
        if self._joining or len(rows) * 2 <= self._laid:
            self._lay(rows + self._joining)
        for band in self._bands:
            if any(row.length >= band.columns for row in band.rows):
                band.widen()
        token = NextToken(self._bands)
        for row in token.rows:
            row.length += 1
        return token

    def _lay(self, rows: Sequence[Row]) -> None:
        """Copy rows into new bands, layer by layer, so that one layer at most stands twice in memory."""
        ordered = sorted(rows, key=lambda row: row.length)
        self._joining, self._bands, self._laid = [], [], len(ordered)
        for count in cut_into_bands([row.length for row in ordered]):
            part, ordered = ordered[:count], ordered[count:]
            self._bands.append(_Band(part, (part[-1].length // _COLUMN_BLOCK + 1) * _COLUMN_BLOCK))
        for layer in range(len(self._bands[0].rows[0].layers) if self._bands else 0):
            for band in self._bands:
                buffer = band.buffer(band.rows[0].layers[layer])
                for place, row in enumerate(band.rows):
                    buffer[:, place, :, : row.length] = row.layers[layer][:, :, : row.length]
                    row.layers[layer] = buffer[:, place]
                band.layers.append(buffer)


class NextToken:
    """The attention of one token a row, over all that the row has read. `rows` are in the order of the bands."""

    def __init__(self, bands: Sequence[_Band]) -> None:
        self.rows = [row for band in bands for row in band.rows]
        some = bands[0].layers[0]
        self.positions_B = torch.tensor([row.length for row in self.rows], device=some.device)
        self._parts: list[tuple[_Band, Tensor, Tensor, Tensor]] = []
        for band, column_b in zip(bands, self.positions_B.split([len(band.rows) for band in bands]), strict=True):
            bias_bC = some.new_zeros(len(band.rows), band.columns)
            ahead_bC = torch.arange(band.columns, device=some.device) > column_b[:, None]
            bias_bC.masked_fill_(ahead_bC, float("-inf"))
            place_b = torch.arange(len(band.rows), device=some.device)
            self._parts.append((band, place_b, column_b, bias_bC.repeat_interleave(some.shape[2], dim=0)[:, None]))

    def attend(self, layer: int, heads_BGNS: Tensor, scaling: float) -> Tensor:
        """Write the keys and values of the token, and attend: [B, G, N, S] to [B, G * R * S].

        A buffer is read with all its columns: products with a part of the columns would copy that part first.
        """
        rows, groups, each, size = heads_BGNS.shape
        out = heads_BGNS.new_empty(rows * groups, each - 2, size)
        first = 0
        for band, place_b, column_b, bias in self._parts:
            last = first + len(place_b)
            part_bGNS, buffer = heads_BGNS[first:last], band.layers[layer]
            buffer[:, place_b, :, column_b] = part_bGNS[:, :, -2:].transpose(1, 2)
            keys, values = buffer[:, : len(place_b)].flatten(1, 2)
            queries = part_bGNS.flatten(0, 1)[:, :-2]
            scores = torch.add(bias, torch.bmm(queries, keys.transpose(1, 2)), alpha=scaling)
            torch.bmm(torch.softmax(scores, dim=-1), values, out=out[first * groups : last * groups])
            first = last
        return out.view(rows, -1)
