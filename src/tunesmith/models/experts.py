"""Models with experts: where they and their routers are, experts of which some move, and what the routers say.

Shape letters: T tokens, W width, E experts of a layer, M of them that move, K experts a token goes to, I inner width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from tunesmith.models.sites import layer_of


@dataclass(frozen=True)
class ExpertLayer:
    """A block's experts. `path` is their module's name in the model, `router` gives logits [T, E], shares and choices
    [T, K] of its tokens."""

    layer: int
    path: str
    experts: nn.Module
    router: nn.Module

    @property
    def stacks(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Matrices of all experts: gate and up [E, 2 I, W], down [E, W, I]."""
        return cast(nn.Parameter, self.experts.gate_up_proj), cast(nn.Parameter, self.experts.down_proj)

    @property
    def count(self) -> int:
        """E."""
        return int(self.stacks[0].shape[0])

    @property
    def top_k(self) -> int:
        """K."""
        return int(cast(int, self.router.top_k))


def expert_layers(model: nn.Module) -> list[ExpertLayer]:
    """The blocks with experts, in order; none in a dense model."""
    found: list[ExpertLayer] = []
    for name, module in model.named_modules():
        experts, router = getattr(module, "experts", None), getattr(module, "gate", None)
        if not isinstance(experts, nn.Module) or not isinstance(router, nn.Module):
            continue
        stack, layer = getattr(experts, "gate_up_proj", None), layer_of(f"{name}.")
        if isinstance(stack, Tensor) and stack.ndim == 3 and layer is not None:
            found.append(ExpertLayer(layer, f"{name}.experts", experts, router))
    return found


class ChosenExperts(nn.Module):
    """Stacked experts of which some move: those stand in tensors of their own, and the stack stays as it is.

    What does not move is in no tensor that an optimizer sees, so neither weight decay nor momentum reaches it. The
    stack keeps the chosen experts' first values, unused.
    """

    def __init__(self, plain: nn.Module, chosen: Sequence[int]) -> None:
        super().__init__()
        self.gate_up_proj = cast(nn.Parameter, plain.gate_up_proj)
        self.down_proj = cast(nn.Parameter, plain.down_proj)
        self.act_fn = cast(nn.Module, plain.act_fn)
        places = torch.tensor(list(chosen), device=self.gate_up_proj.device)
        self.moving_gate_up_proj = nn.Parameter(self.gate_up_proj.detach()[places].clone())
        self.moving_down_proj = nn.Parameter(self.down_proj.detach()[places].clone())
        self._place = {expert: place for place, expert in enumerate(chosen)}

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The experts' outputs of tokens [T, W], which go to `top_k_index` [T, K] by shares `top_k_weights` [T, K]."""
        sum_TW = torch.zeros_like(hidden_states)
        reached = False
        for expert in top_k_index.unique().tolist():
            if expert >= len(self.gate_up_proj):  # transformers' mark for no expert
                continue
            gate_up, down, moves = self._matrices(expert)
            reached = reached or moves
            token, slot = torch.where(top_k_index == expert)
            gate, up = linear(hidden_states[token], gate_up).chunk(2, dim=-1)
            output = linear(self.act_fn(gate) * up, down) * top_k_weights[token, slot, None]
            sum_TW = sum_TW.index_add(0, token, output.to(sum_TW.dtype))
        if not reached:  # a gradient of zero, so that every process shares the same tensors
            sum_TW = sum_TW + 0 * (self.moving_gate_up_proj[0, 0, 0] + self.moving_down_proj[0, 0, 0])
        return sum_TW

    def _matrices(self, expert: int) -> tuple[Tensor, Tensor, bool]:
        place = self._place.get(expert)
        if place is None:
            return self.gate_up_proj[expert], self.down_proj[expert], False
        return self.moving_gate_up_proj[place], self.moving_down_proj[place], True


def choose_experts(model: PreTrainedModel, layer: ExpertLayer, chosen: Sequence[int]) -> ChosenExperts:
    """Let some experts of a layer move; the model is changed on this instance only."""
    parent, _, child = layer.path.rpartition(".")
    made = ChosenExperts(layer.experts, chosen)
    model.get_submodule(parent).add_module(child, made)
    return made


RouterOutput = tuple[Tensor, Tensor, Tensor]
"""Logits [T, E], and shares and choices [T, K] of the experts that a token goes to."""
Seen = Callable[[int, Tensor, Tensor], None]
"""Gets the number of a block, its router's logits [T, E] and its choices [T, K]."""


def routers(model: nn.Module) -> dict[int, nn.Module]:
    """What chooses among experts, by block: the model's own routers, or those of LoRA experts."""
    own = {each.layer: each.router for each in expert_layers(model)}
    for name, module in model.named_modules():
        layer = layer_of(f"{name}.")
        if name.endswith(".mixture.choice") and layer is not None:
            own[layer] = module
    return own


@contextmanager
def watching_routers(model: nn.Module, seen: Seen) -> Iterator[None]:
    """Tell what the routers say about everything that goes through the model inside the block."""

    def hook_of(layer: int) -> Callable[[nn.Module, object, RouterOutput], None]:
        # a plain block's tokens stand in a batch of one
        return lambda _module, _inputs, output: seen(layer, output[0].flatten(0, -2), output[2].flatten(0, -2))

    handles = [router.register_forward_hook(hook_of(layer)) for layer, router in routers(model).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def balance(logits_TE: Tensor, choices_TK: Tensor) -> Tensor:
    """How uneven a router's load is: E sum_e f_e P_e, 1 where it is even (Fedus et al. 2021, 2101.03961, eq. 4-6).

    f is the share of choices that went to an expert, P the mean share the router gave it; only P has a gradient.
    """
    once_T = torch.ones(len(logits_TE), device=logits_TE.device)
    load_E = load_of(choices_TK, once_T, logits_TE.shape[-1])
    return uneven(logits_TE, once_T, load_E) / once_T.sum()


def load_of(choices_TK: Tensor, rows_T: Tensor, experts: int) -> Tensor:
    """How often each expert is chosen, [E] float64, by tokens that stand for so many rows."""
    rows_N = rows_T.double().repeat_interleave(choices_TK.shape[1])
    chosen_N = choices_TK.flatten()  # a number behind the last expert is transformers' mark for none
    return torch.bincount(chosen_N, weights=rows_N, minlength=experts)[:experts].double()


def uneven(logits_TE: Tensor, rows_T: Tensor, load_E: Tensor) -> Tensor:
    """E sum_e f_e p_e, summed over the rows of the tokens; f is the share of a load that may be a larger window's."""
    share_TE = torch.softmax(logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32)), dim=-1)
    share_E = (share_TE * rows_T[:, None].to(share_TE.dtype)).sum(0)
    return len(load_E) * ((load_E / load_E.sum()).to(share_E) * share_E).sum()
