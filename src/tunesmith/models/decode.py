"""The fast way to continue prompts with a model of the Llama shape: passes without padding, in few products.

A pass takes tokens of many rows side by side: whole prompts when they are read, one token a row when answers grow.
On a CPU the weights of a small model stand once more in memory for as long as rows are under way, in the order in
which oneDNN reads them: it would bring them into that order anew in every product. Adapters stay beside the weights
they add to.

Shape letters: T tokens of a pass, B rows, W width, G key/value heads, R query heads that share a key head, N = R + 2
heads of a group (R queries, a key, a value), S size of a head, L tokens of one prompt, M tokens it sees, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from tunesmith.models.bands import Bands, Row
from tunesmith.models.beginning import keys_before
from tunesmith.models.bottleneck import adapter_of
from tunesmith.models.lora_experts import mixture_of
from tunesmith.models.products import REORDER_UP_TO, Parts, Product, may_reorder, parts_of
from tunesmith.models.quantized import held_numbers

_MODELS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_HEAD_NORMS = ("q_norm", "k_norm")
_QUERIES_AT_ONCE = 256

Attend = Callable[[int, Tensor], Tensor]
"""Attention of a layer: [T, G, N, S] to [T, G * R * S]."""


class _Block:
    """The layers of one decoder block (a Llama block, or one of a family that has the same parts)."""

    def __init__(self, block: LlamaDecoderLayer, parts: Mapping[str, Parts], reorder: bool) -> None:
        attention = block.self_attn
        self.size, self.scaling = int(attention.head_dim), float(attention.scaling)
        heads, self.groups = len(parts["q_proj"].weight) // self.size, len(parts["k_proj"].weight) // self.size
        self.turned = heads // self.groups + 1
        # The outputs stand as queries, key and value of one key head, of the next, ...: no part is moved afterwards.
        number = torch.arange(heads + 2 * self.groups, device=parts["q_proj"].weight.device)
        query, key, value = number.split([heads, self.groups, self.groups])
        grouped = torch.cat([query.view(self.groups, -1), key[:, None], value[:, None]], dim=1).flatten()
        order = (grouped[:, None] * self.size + torch.arange(self.size, device=number.device)).flatten()
        self.heads = Product(parts["q_proj"], parts["k_proj"], parts["v_proj"], reorder=reorder, order=order)
        self.out, self.gate, self.up, self.down = (Product(parts[name], reorder=reorder) for name in _PROJECTIONS[3:])
        self.first_norm, self.second_norm = block.input_layernorm, block.post_attention_layernorm
        self.beside_mlp, self.mixture = adapter_of(block.mlp), mixture_of(block.mlp)
        self.activation: Callable[[Tensor], Tensor] = block.mlp.act_fn
        self.head_norms: list[nn.Module] = [
            getattr(attention, name) for name in _HEAD_NORMS if hasattr(attention, name)
        ]

    def heads_of(self, input_TW: Tensor, cos_T1NS: Tensor, sin_T1NS: Tensor) -> Tensor:
        """Queries, keys and values, turned by their positions, [T, G, N, S]."""
        heads_TGNS = self.heads(self.first_norm(input_TW)).unflatten(-1, (self.groups, -1, self.size))
        for norm, place in zip(self.head_norms, (slice(-2), -2), strict=False):
            heads_TGNS[:, :, place] = norm(heads_TGNS[:, :, place])
        return torch.addcmul(heads_TGNS * cos_T1NS, heads_TGNS.roll(self.size // 2, dims=-1), sin_T1NS)

    def finish(self, hidden_TW: Tensor, attended_TW: Tensor) -> None:
        """What follows the attention, added to the hidden states in place."""
        hidden_TW += self.out(attended_TW)
        normed_TW = self.second_norm(hidden_TW)
        gate_TI, up_TI = self.gate(normed_TW), self.up(normed_TW)
        if self.mixture is not None:
            gate_TI, up_TI, shares_T = self.mixture.mixed(linear(normed_TW, self.mixture.reads()), gate_TI, up_TI)
        inner_TI = self.activation(gate_TI).mul_(up_TI)
        hidden_TW += self.down(inner_TI)
        if self.mixture is not None:
            hidden_TW += self.mixture.down(inner_TI, shares_T)
        if self.beside_mlp is not None:
            hidden_TW += self.beside_mlp(normed_TW)


@lru_cache(maxsize=8)
def _triangle(repeats: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf where a query of a block would look ahead; each query stands R times in a row."""
    above = torch.full((_QUERIES_AT_ONCE, _QUERIES_AT_ONCE), float("-inf"), dtype=dtype, device=device).triu(1)
    return above.repeat_interleave(repeats, dim=0)


def _causal(queries_LGRS: Tensor, keys_GMS: Tensor, values_GMS: Tensor, scaling: float) -> Tensor:
    """Attention of the last L of M tokens, [L, G * R * S], by two products for a block of queries."""
    length, groups, repeats, size = queries_LGRS.shape
    queries = queries_LGRS.transpose(0, 1).reshape(groups, length * repeats, size)
    out = torch.empty_like(queries)
    for first in range(0, length, _QUERIES_AT_ONCE):
        last = min(length, first + _QUERIES_AT_ONCE)
        reach = keys_GMS.shape[1] - length + last
        block = queries[:, first * repeats : last * repeats]
        scores = torch.baddbmm(block.new_zeros(()), block, keys_GMS[:, :reach].transpose(1, 2), beta=0, alpha=scaling)
        scores[:, :, reach - last + first :] += _triangle(repeats, block.dtype, block.device)[
            : block.shape[1], : last - first
        ]
        out[:, first * repeats : last * repeats] = torch.bmm(torch.softmax(scores, -1), values_GMS[:, :reach])
    return out.view(groups, length, repeats * size).transpose(0, 1).flatten(1)


class PackedRows:
    """The rows under way in a model of the Llama shape: one form of the engine's `Rows`."""

    def __init__(self, model: PreTrainedModel, parts: Sequence[Mapping[str, Parts]], head: Parts) -> None:
        body = model.get_decoder()
        weights = [head.weight, *(part.weight for each in parts for part in each.values())]
        reorder = may_reorder(weights)
        with torch.inference_mode():
            self._blocks = [_Block(block, each, reorder) for block, each in zip(body.layers, parts, strict=True)]
            self._head = Product(head, reorder=reorder)
        self._embed, self._rotary, self._norm = body.embed_tokens, body.rotary_emb, body.norm
        self._device = model.device
        self._bands = Bands()
        with torch.inference_mode():
            self._start = keys_before(model)
        self._shared: Sequence[Tensor] = self._start

    def share(self, prefix: Sequence[int]) -> None:
        """Read what coming prompts begin with."""
        rows, _ = self._read([-1], [prefix], self._start, 0)
        self._shared = rows[0].layers

    def read(self, numbers: Sequence[int], prompts: Sequence[Sequence[int]], shared: int) -> Tensor:
        """Read prompts, the first `shared` tokens of which were given to `share`; logits after each, [B, V]."""
        rows, logits_BV = self._read(numbers, prompts, self._shared if shared else self._start, shared)
        self._bands.join(rows)
        return logits_BV

    def grow(self, latest: Mapping[int, int]) -> tuple[list[int], Tensor]:
        """Read the latest token of every row; returns the rows' numbers and, in this order, their logits, [B, V]."""
        token = self._bands.next_token()
        numbers = [row.number for row in token.rows]
        token_ids_B = torch.tensor([latest[number] for number in numbers], device=self._device)

        def attend(layer: int, heads_BGNS: Tensor) -> Tensor:
            return token.attend(layer, heads_BGNS, self._blocks[layer].scaling)

        return numbers, self._pass(token_ids_B, token.positions_B, attend, None)

    def remove(self, number: int) -> None:
        """Drop a row."""
        self._bands.remove(number)

    def _read(
        self, numbers: Sequence[int], prompts: Sequence[Sequence[int]], before: Sequence[Tensor], read: int
    ) -> tuple[list[Row], Tensor]:
        """Read prompts from token `read` on, behind keys and values `before` it: the rows, and logits after each."""
        first = before[0].shape[2] if before else 0
        lengths = [len(prompt) - read for prompt in prompts]
        rows = [Row(number, first + length, []) for number, length in zip(numbers, lengths, strict=True)]

        def attend(layer: int, heads_TGNS: Tensor) -> Tensor:
            attended = []
            for row, part_LGNS in zip(rows, heads_TGNS.split(lengths), strict=True):
                seen = part_LGNS[:, :, -2:].permute(2, 1, 0, 3)
                seen = torch.cat([before[layer], seen], dim=2) if before else seen.contiguous()
                row.layers.append(seen)
                attended.append(_causal(part_LGNS[:, :, :-2], seen[0], seen[1], self._blocks[layer].scaling))
            return torch.cat(attended)

        token_ids_T = torch.tensor([token for prompt in prompts for token in prompt[read:]], device=self._device)
        positions_T = torch.cat([torch.arange(first, row.length) for row in rows]).to(self._device)
        last_B = (torch.tensor(lengths).cumsum(0) - 1).to(self._device)
        return rows, self._pass(token_ids_T, positions_T, attend, last_B)

    def _pass(self, token_ids_T: Tensor, positions_T: Tensor, attend: Attend, last_B: Tensor | None) -> Tensor:
        """Logits of all tokens, or of those at `last_B`."""
        hidden_TW: Tensor = self._embed(token_ids_T)
        cos_T1NS, sin_T1NS = self._turns(hidden_TW, positions_T)
        for layer, block in enumerate(self._blocks):
            attended_TW = attend(layer, block.heads_of(hidden_TW, cos_T1NS, sin_T1NS))
            if last_B is not None and block is self._blocks[-1]:
                hidden_TW, attended_TW = hidden_TW[last_B], attended_TW[last_B]
            block.finish(hidden_TW, attended_TW)
        return self._head(self._norm(hidden_TW))

    def _turns(self, hidden_TW: Tensor, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of a head and of its halves exchanged: rotary positions; a value is left as it is (1 and 0)."""
        cos_TS, sin_TS = (each[0] for each in self._rotary(hidden_TW[None], positions_T[None]))
        low, high = sin_TS.chunk(2, dim=-1)
        sin_TS = torch.cat([-low, high], dim=-1)
        turned = self._blocks[0].turned
        cos = [cos_TS] * turned + [torch.ones_like(cos_TS)]
        sin = [sin_TS] * turned + [torch.zeros_like(sin_TS)]
        return torch.stack(cos, dim=1)[:, None], torch.stack(sin, dim=1)[:, None]


def packed_rows(model: PreTrainedModel) -> PackedRows | None:
    """Rows for a model whose every part is one that this file computes; None for any other model."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if type(model) not in _MODELS or kinds - {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        return None
    body, head = model.get_decoder(), model.get_output_embeddings()
    if type(head) is not nn.Linear or any(_is_watched(module) for module in model.modules()):
        return None
    if held_numbers(model) * model.dtype.itemsize > REORDER_UP_TO:  # weights in codes would all stand dense at once
        return None
    parts: list[dict[str, Parts]] = []
    for block in body.layers:
        layers = {**dict(block.self_attn.named_children()), **dict(block.mlp.named_children())}
        found = {name: parts_of(layers.get(name)) for name in _PROJECTIONS}
        known = {name: each for name, each in found.items() if each is not None}
        if len(known) < len(found):
            return None
        parts.append(known)
    return PackedRows(model, parts, Parts(head.weight, head.bias))


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody else acts on what goes through a module: then the module itself must be called."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
