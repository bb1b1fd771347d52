"""LoRA experts on a dense model: low-rank additions to each MLP's layers, of which a router lets every token use a few.

    shares   g = softmax over the K largest router logits, 0 for every other expert        (they sum to 1)
    layer    y = W x + s sum_e g_e B_e A_e x       for gate, up and down alike, with the shares of the MLP's input

after LoRAMoE (Dou et al. 2023, 2312.09979). Every expert owns its A and B and its row of the router, as parameters of
their own, so one can come, move or go while the bytes of the others stay.

Shape letters: T tokens, W width, I inner width, O outputs of a layer, E experts, K of them a token uses, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from tunesmith.models.experts import RouterOutput
from tunesmith.models.sites import layer_of

LAYERS = ("gate_proj", "up_proj", "down_proj")


class LowRankPair(nn.Module):
    """A [R, W] and B [O, R] of one expert in one layer; B is zero, so nothing changes at first."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)


class LoraExpert(nn.Module):
    """One expert of an MLP: a pair for each of its layers, and its row of the router."""

    def __init__(self, width: int, inner: int, rank: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = LowRankPair(width, inner, rank), LowRankPair(width, inner, rank)
        self.down_proj = LowRankPair(inner, width, rank)
        self.router = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.router.weight, std=0.02)


class Choice(nn.Module):
    """What a router's logits mean. A module, so that what it says can be watched."""

    def __init__(self, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k

    def forward(self, logits_TE: Tensor) -> RouterOutput:
        """Logits, shares and choices of the K experts a token uses."""
        top_k = min(self.top_k, logits_TE.shape[-1])
        wide_TE = logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32))
        best_TK, choices_TK = wide_TE.topk(top_k, dim=-1)
        return logits_TE, torch.softmax(best_TK, dim=-1), choices_TK


class Mixture(nn.Module):
    """The LoRA experts of one MLP.

    Args:
        names: of its experts, numbers that an expert keeps for life.
        scale: what an addition counts with.
    """

    def __init__(self, width: int, inner: int, names: Sequence[int], rank: int, scale: float, top_k: int) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({str(name): LoraExpert(width, inner, rank) for name in names})
        self.choice = Choice(top_k)
        self._rank, self._scale = rank, scale

    def _each(self) -> Iterable[LoraExpert]:
        return cast(Iterable[LoraExpert], self.experts.values())

    def reads(self) -> Tensor:
        """What reads the MLP's input: A of gate and up, and the router, [2 E R + E, W]."""
        gates, ups = [each.gate_proj.A for each in self._each()], [each.up_proj.A for each in self._each()]
        return torch.cat([*gates, *ups, *(each.router.weight for each in self._each())])

    def mixed(self, read_T: Tensor, gate_TI: Tensor, up_TI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate and up with their additions, [T, I], and each rank's share, [T, E R].

        Args:
            read_T: what `reads` gave, [T, 2 E R + E].
        """
        ranks = len(self.experts) * self._rank
        low_gate, low_up, logits_TE = read_T.split([ranks, ranks, len(self.experts)], dim=-1)
        _, shares_TK, choices_TK = self.choice(logits_TE)
        shares_TE = torch.zeros_like(logits_TE).scatter(-1, choices_TK, shares_TK.to(logits_TE.dtype))
        shares_TER = self._scale * shares_TE.repeat_interleave(self._rank, dim=-1)
        gate_TI = gate_TI + linear(low_gate * shares_TER, torch.cat([each.gate_proj.B for each in self._each()], dim=1))
        up_TI = up_TI + linear(low_up * shares_TER, torch.cat([each.up_proj.B for each in self._each()], dim=1))
        return gate_TI, up_TI, shares_TER

    def down(self, inner_TI: Tensor, shares_TER: Tensor) -> Tensor:
        """What the experts add to the MLP's output, [T, W]."""
        low_TER = linear(inner_TI, torch.cat([each.down_proj.A for each in self._each()]))
        return linear(low_TER * shares_TER, torch.cat([each.down_proj.B for each in self._each()], dim=1))


class MixedMlp(nn.Module):
    """A gated MLP with LoRA experts. Its children are the MLP's under their own names, and the mixture."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def __init__(self, plain: nn.Module, mixture: Mixture) -> None:
        super().__init__()
        for name, child in plain.named_children():
            self.add_module(name, child)
        self.mixture = mixture

    def forward(self, input_TW: Tensor) -> Tensor:
        """The MLP's output with its experts."""
        read_T = linear(input_TW, self.mixture.reads())
        gate_TI, up_TI, shares_TER = self.mixture.mixed(read_T, self.gate_proj(input_TW), self.up_proj(input_TW))
        inner_TI = self.act_fn(gate_TI) * up_TI
        return cast(Tensor, self.down_proj(inner_TI)) + self.mixture.down(inner_TI, shares_TER)


def mixture_of(module: object) -> Mixture | None:
    """The mixture of an MLP that has one."""
    return module.mixture if isinstance(module, MixedMlp) else None


def place_mixtures(
    model: PreTrainedModel, names: Sequence[int], rank: int, scale: float, top_k: int
) -> dict[int, Mixture]:
    """Put LoRA experts into the MLP of every block, drawn from torch's generator; by block.

    MLPs that are built in another way get none.
    """
    found: dict[int, Mixture] = {}
    for path in [path for path, _ in model.named_modules() if path.endswith(".mlp")]:
        plain, layer = model.get_submodule(path), layer_of(f"{path}.")
        children = dict(plain.named_children())
        if layer is None or set(children) != {*LAYERS, "act_fn"}:
            continue
        sizes = model.config.get_text_config()
        mixture = Mixture(int(sizes.hidden_size), int(sizes.intermediate_size), names, rank, scale, top_k)
        mixture.to(dtype=model.dtype, device=model.device)
        parent, _, child = path.rpartition(".")
        model.get_submodule(parent).add_module(child, MixedMlp(plain, mixture))
        found[layer] = mixture
    return found
