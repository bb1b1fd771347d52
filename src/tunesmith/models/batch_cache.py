"""Keys and values of a batch whose rows come and go: room is taken in blocks, and rows are moved, not rebuilt.

transformers' own dynamic layer copies every key and value at every token, which on a CPU costs as much as reading
the weights. Here a token is written in place, a row that ends is replaced by the last one, and a row that joins is
written into free room.

Shape letters: B rows in use, R rows there is room for, C columns there is room for, L columns in use, Q columns of
one forward pass, H key-value heads, D width of a head.

Rows end at the right: column L - 1 holds the newest token of every row. A row's tokens are the columns where
`mask_BL` is one; there may be gaps, so positions are always stated and never inferred.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_COLUMN_BLOCK = 64


class GrowingLayer(DynamicLayer):
    """One layer's keys and values in buffers [R, H, C, D]; `keys` and `values` are the parts in use, [B, H, L, D]."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._key_buffer_RHCD = self._value_buffer_RHCD = torch.empty(0, 0, 0, 0)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write Q columns behind those in use; returns all keys and all values."""
        rows, heads, columns, width = key_states.shape
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if start + columns > self._key_buffer_RHCD.shape[2] or self._key_buffer_RHCD.shape[0] < rows:
            self._reserve(rows, heads, start + columns, width, value_states.shape[-1])
        self._key_buffer_RHCD[:rows, :, start : start + columns] = key_states
        self._value_buffer_RHCD[:rows, :, start : start + columns] = value_states
        self._show(rows, start + columns)
        return self._parts()

    def _parts(self) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            raise RuntimeError("a layer was read before its first forward pass")
        return self.keys, self.values

    def _show(self, rows: int, columns: int) -> None:
        self.keys = self._key_buffer_RHCD[:rows, :, :columns]
        self.values = self._value_buffer_RHCD[:rows, :, :columns]

    def _reserve(self, rows: int, heads: int, columns: int, key_width: int, value_width: int) -> None:
        room = -(-columns // _COLUMN_BLOCK) * _COLUMN_BLOCK
        buffers = []
        for width, old in ((key_width, self.keys), (value_width, self.values)):
            buffer = torch.zeros(rows, heads, room, width, dtype=self.dtype, device=self.device)
            if old is not None and old.numel():
                buffer[: old.shape[0], :, : old.shape[2]] = old
            buffers.append(buffer)
        self._key_buffer_RHCD, self._value_buffer_RHCD = buffers

    def take(self, source: GrowingLayer, rows_B: Tensor, columns_L: Tensor) -> None:
        """Become a copy of some rows and columns of another layer."""
        keys, values = source._parts()
        self.lazy_initialization(keys, values)
        self._key_buffer_RHCD = keys.index_select(0, rows_B).index_select(2, columns_L)
        self._value_buffer_RHCD = values.index_select(0, rows_B).index_select(2, columns_L)
        self._show(len(rows_B), len(columns_L))

    def replace_row(self, row: int, by: int) -> None:
        """Write row `by` over `row`, and use one row less."""
        keys, values = self._parts()
        if row != by:
            keys[row] = keys[by]
            values[row] = values[by]
        self._show(keys.shape[0] - 1, keys.shape[2])

    def join(self, newcomer: GrowingLayer, columns: int) -> None:
        """Put another layer's rows under one's own, both moved to the right edge of `columns` columns."""
        keys, values = self._parts()
        new_keys, new_values = newcomer._parts()
        rows = keys.shape[0] + new_keys.shape[0]
        if columns == keys.shape[2] and rows <= self._key_buffer_RHCD.shape[0]:
            start = columns - new_keys.shape[2]
            self._key_buffer_RHCD[keys.shape[0] : rows, :, start:columns] = new_keys
            self._value_buffer_RHCD[keys.shape[0] : rows, :, start:columns] = new_values
        else:
            self.keys = self.values = None
            self._reserve(rows, keys.shape[1], columns, keys.shape[3], values.shape[3])
            for buffer, parts in (
                (self._key_buffer_RHCD, (keys, new_keys)),
                (self._value_buffer_RHCD, (values, new_values)),
            ):
                buffer[: keys.shape[0], :, columns - keys.shape[2] : columns] = parts[0]
                buffer[keys.shape[0] : rows, :, columns - new_keys.shape[2] : columns] = parts[1]
        self._show(rows, columns)


class BatchCache:
    """The cache of all layers, which of its columns each row attends to, and each row's next position.

    Attributes:
        cache: what the model's forward takes as `past_key_values`.
        mask_BL: 1 where a row has a token, 0 where it has a gap, int64.
        next_position_B: position of each row's next token.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self._layers = [GrowingLayer() for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))
        self.mask_BL = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.next_position_B = torch.zeros(0, dtype=torch.long, device=device)

    def __len__(self) -> int:
        return self.mask_BL.shape[0]

    @property
    def columns(self) -> int:
        """Columns in use."""
        return self.mask_BL.shape[1]

    def extend(self, mask_BQ: Tensor) -> Tensor:
        """Announce Q more columns before the forward pass that fills them; returns their positions, [B, Q]."""
        positions_BQ = (self.next_position_B[:, None] + mask_BQ.cumsum(1) - 1).clamp(min=0)
        self.mask_BL = torch.cat([self.mask_BL, mask_BQ], dim=1)
        self.next_position_B = self.next_position_B + mask_BQ.sum(1)
        return positions_BQ

    def start(self, rows: int) -> None:
        """Begin with `rows` rows and no columns."""
        self.mask_BL = self.mask_BL.new_zeros(rows, 0)
        self.next_position_B = self.next_position_B.new_zeros(rows)

    def fill(self, keys_and_values: Sequence[Tensor]) -> None:
        """Write what stands in the first row, layer by layer [2, H, Q, D], in place of a forward pass."""
        for layer, (keys_HQD, values_HQD) in zip(self._layers, keys_and_values, strict=True):
            layer.update(keys_HQD[None], values_HQD[None])

    def select(self, rows: list[int]) -> BatchCache:
        """A copy with these rows (one may appear often) and without the columns that none of them uses."""
        rows_B = torch.tensor(rows, dtype=torch.long, device=self.mask_BL.device)
        mask_BL = self.mask_BL.index_select(0, rows_B)
        columns_L = mask_BL.any(0).nonzero()[:, 0]
        copy = BatchCache(len(self._layers), mask_BL.device)
        for mine, theirs in zip(copy._layers, self._layers, strict=True):
            mine.take(theirs, rows_B, columns_L)
        copy.mask_BL = mask_BL.index_select(1, columns_L)
        copy.next_position_B = self.next_position_B.index_select(0, rows_B)
        return copy

    def remove(self, row: int) -> None:
        """Drop a row; the last row takes its number."""
        last = len(self) - 1
        for layer in self._layers:
            layer.replace_row(row, last)
        self.mask_BL = torch.cat([self.mask_BL[:row], self.mask_BL[last:], self.mask_BL[row + 1 : last]])[:last]
        self.next_position_B[row] = self.next_position_B[last]
        self.next_position_B = self.next_position_B[:last]

    def join(self, newcomers: BatchCache) -> None:
        """Take in the rows of another cache, behind one's own."""
        columns = max(self.columns, newcomers.columns)
        for mine, theirs in zip(self._layers, newcomers._layers, strict=True):
            mine.join(theirs, columns)
        masks = [
            torch.nn.functional.pad(mask, (columns - mask.shape[1], 0)) for mask in (self.mask_BL, newcomers.mask_BL)
        ]
        self.mask_BL = torch.cat(masks)
        self.next_position_B = torch.cat([self.next_position_B, newcomers.next_position_B])
