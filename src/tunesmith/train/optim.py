"""Optimizers over float32 masters, and step sizes.

Weights that live in bfloat16 would lose small updates; what trains therefore has a float32 copy that the optimizer
moves, and the weights are rounded from it after every step. Weights that are float32 or wider are their own master.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.specs.adapt import AdaptSpec, BottleneckSpec, LoraExpertsSpec, LoraSpec, SubsetSpec
from tunesmith.recipe.specs.beginnings import BeginningSpec, PrefixSpec
from tunesmith.recipe.specs.train import TrainSpec
from tunesmith.train.memory import is_out_of_memory


def default_learning_rate(adapt: AdaptSpec) -> float:
    """Where a recipe names none: ten times more for additions that start at zero (Schulman et al. 2025, LoRA Without
    Regret) than for weights that hold the pretraining; biases and norms bear more still (Ben-Zaken et al. 2021,
    2106.10199, searched 1e-4 to 1e-3), a learned beginning the most (Lester et al. 2021, 2104.08691, took 0.3), less
    of it where a network gives it. SmolLM2-135M, 30 steps of 8 tickets: virtual tokens reached a loss of 0.74 and 0.54
    with 0.01 and 0.03, keys and values 1.85 and 1.05; out of a network, three seeds, tokens 0.67, 0.65 and 0.46 with
    0.001, 0.003 and 0.01, keys and values 0.17, 0.15 and 3.5."""
    if isinstance(adapt, LoraSpec | BottleneckSpec | LoraExpertsSpec):
        return 2e-4
    if isinstance(adapt, PrefixSpec) and adapt.has_network:
        return 1e-3
    if isinstance(adapt, BeginningSpec):
        return 1e-2 if adapt.has_network else 3e-2
    return 4e-4 if isinstance(adapt, SubsetSpec) and adapt.only_vectors else 2e-5


def step_size(spec: TrainSpec, peak: float, step: int, total_steps: int) -> float:
    """Step size of a step counted from 0: linear warm-up to `peak`, then the schedule down to a tenth or to 0."""
    warmup = math.ceil(spec.warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    if spec.lr_scheduler_type == "cosine":
        return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
    if spec.lr_scheduler_type == "linear":
        return peak * (1 - progress)
    return peak


class MasterOptimizer:
    """Gathers gradients, clips them, steps the masters and rounds the weights.

    Args:
        parameters: what may move, by name.
        factors: of the step size, by name; 1 where a name is missing.
        undecayed: matrices without weight decay; vectors (norms, biases) have none anyway.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        spec: TrainSpec,
        factors: Mapping[str, float] | None = None,
        undecayed: Collection[str] = (),
    ) -> None:
        self._parameters = dict(parameters)
        self.masters = {name: _master(parameter) for name, parameter in self._parameters.items()}
        alike: dict[tuple[float, float], list[Tensor]] = {}
        for name, master in self.masters.items():
            decay = spec.weight_decay if master.ndim >= 2 and name not in undecayed else 0.0
            alike.setdefault((-decay, (factors or {}).get(name, 1.0)), []).append(master)
        groups = [{"params": alike[key], "weight_decay": -key[0], "factor": key[1]} for key in sorted(alike)]
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, lr=0.0, fused=True)
            if spec.optimizer == "adamw"
            else torch.optim.SGD(groups, lr=0.0, momentum=0.9)
        )

    def collect(self) -> None:
        """Move gradients from the weights to the masters, adding up in the masters' precision."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            master = self.masters[name]
            gradient = parameter.grad.to(master.dtype)
            if master is not parameter:
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """What `collect` has gathered."""
        return [master.grad for master in self.masters.values() if master.grad is not None]

    def drop(self) -> None:
        """Forget every gradient, gathered or not."""
        for parameter in (*self._parameters.values(), *self.masters.values()):
            parameter.grad = None

    @property
    def coming_bytes(self) -> int:
        """What the first update will take for good: two float32 moments a trained number with AdamW, one with SGD."""
        if self._optimizer.state:
            return 0
        moments = 2 if isinstance(self._optimizer, torch.optim.AdamW) else 1
        return moments * sum(master.numel() * master.element_size() for master in self.masters.values())

    def step(self, learning_rate: float, max_grad_norm: float, *, usable: bool = True) -> float:
        """One update; returns the norm of the gradient before clipping.

        A norm that is no number, or a loss that the caller does not find `usable`, changes nothing.
        Errors: train.out_of_memory_update.
        """
        norm = torch.nn.utils.get_total_norm(self.gradients())
        if usable and bool(torch.isfinite(norm)):
            torch.nn.utils.clip_grads_with_norm_(list(self.masters.values()), max_grad_norm, norm)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate * group["factor"]
            self._update()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    @property
    def finite(self) -> bool:
        """Whether every trained weight is a number."""
        return all(bool(torch.isfinite(master).all()) for master in self.masters.values())

    def _update(self) -> None:
        coming = self.coming_bytes
        try:
            self._optimizer.step()
            self._round()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TunesmithError("train.out_of_memory_update", needed=round(coming / 2**20)) from error

    def _round(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if self.masters[name] is not parameter:
                    parameter.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the optimizer as `<name>/<field>`; step counters are tensors too."""
        names = {id(master): name for name, master in self.masters.items()}
        state: dict[str, Tensor] = {}
        for master, fields in self._optimizer.state.items():
            for field, value in fields.items():
                if isinstance(value, Tensor):
                    state[f"{names[id(master)]}/{field}"] = value.detach()
        return state

    def restore(self, masters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Take masters and state back, bit for bit. Errors: train.state_differs."""
        if set(masters) != set(self.masters):
            raise TunesmithError("train.state_differs", what="masters")
        for name, master in self.masters.items():
            if masters[name].shape != master.shape:
                raise TunesmithError("train.state_differs", what=name)
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(masters[name])
        self._round()
        for key, value in state.items():
            name, _, field = key.rpartition("/")
            if name not in self.masters:
                raise TunesmithError("train.state_differs", what=key)
            master = self.masters[name]
            # The file was read on the CPU; the fused rule wants every tensor, its counter too, beside its parameter.
            self._optimizer.state[master][field] = value.to(master.device, copy=True)


def _master(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype in (torch.float32, torch.float64):
        return parameter
    return nn.Parameter(parameter.detach().to(torch.float32).clone())
