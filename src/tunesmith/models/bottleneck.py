"""Bottleneck adapters: small networks after the parts of a block, inside its residual, or beside its MLP.

    B(x) = scale * (up f(down x + b) + c)

    after a part of output y      y + B(y)          after attention and MLP (Houlsby et al. 2019, 1902.00751), or after
                                                    the MLP alone (Pfeiffer et al. 2020, 2005.00247)
    beside the MLP of input x     MLP(x) + B(x)     (He et al. 2021, 2110.04366)

With up and c at zero B adds nothing. A part that has one is replaced on its own model only.

Shape letters: T tokens, W width, N size of the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu
from transformers import PreTrainedModel

from tunesmith.models.fused import Projection, add_projection, with_lengths
from tunesmith.models.quantized import product
from tunesmith.models.sites import count_layers, find_sites, is_encoder, layer_of

Places = Literal["houlsby", "pfeiffer", "parallel"]

NON_LINEARITIES: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu, "silu": silu}


class Bottleneck(nn.Module):
    """B of the formulas above; `down` is drawn as LoRA's A is, the rest is zero.

    Args:
        width: of what goes in and comes out, W.
        size: of the middle, N.
        non_linearity: a name of `NON_LINEARITIES`.
        scale: what the addition counts with.
    """

    def __init__(self, width: int, size: int, non_linearity: str, scale: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for each in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(each)
        self.bend = NON_LINEARITIES[non_linearity]
        self.scale = scale

    def forward(self, input_TW: Tensor) -> Tensor:
        """What is added, [T, W]."""
        added_TW: Tensor = self.up(self.bend(self.down(input_TW)))
        return self.scale * added_TW

    def added_to(self, sum_TW: Tensor, input_TW: Tensor) -> Tensor:
        """sum + B(x), the large addition made by the product itself, [T, W]."""
        return self.finished(sum_TW, self.down(input_TW))

    def finished(self, sum_TW: Tensor, middle_TN: Tensor) -> Tensor:
        """The same where down x + b is known, [T, N]."""
        bent_TN: Tensor = self.bend(middle_TN)
        bias_W: Tensor = self.up.bias
        if self.scale != 1:
            bent_TN, bias_W = bent_TN * self.scale, bias_W * self.scale
        return add_projection(sum_TW, bent_TN, Projection(self.up.weight, bias_W))


class WithBottleneck(nn.Module):
    """A layer y of a block with a bottleneck after it: y + B(y)."""

    def __init__(self, base_layer: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.base_layer, self.adapter = base_layer, adapter

    def forward(self, input_TW: Tensor) -> Tensor:
        """The adapted output."""
        output_TW: Tensor = self.base_layer(input_TW)
        return output_TW + cast(Tensor, self.adapter(output_TW))


class BesideMlp(nn.Module):
    """An MLP with a bottleneck beside it. Its children are the MLP's under their own names, and the bottleneck."""

    def __init__(self, plain: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self._plain = (plain,)  # in a tuple, so that its parameters are not named twice
        for name, child in plain.named_children():
            self.add_module(name, child)
        self.adapter = adapter

    def forward(self, input_TW: Tensor) -> Tensor:
        """The sum of both."""
        output_TW: Tensor = self._plain[0](input_TW)
        return output_TW + cast(Tensor, self.adapter(input_TW))


def project(input_TW: Tensor, projection: Projection) -> Tensor:
    """projection(x), [T, O], by torch's own products: of a frozen layer nothing is kept for the backward pass."""
    output_TO = product(input_TW, projection.weight, projection.bias)
    if projection.low is not None and projection.high is not None:
        output_TO = output_TO + projection.scale * linear(linear(input_TW, projection.low), projection.high)
    return with_lengths(output_TO, projection)


def adapter_of(module: object) -> Bottleneck | None:
    """The bottleneck of a part that has one."""
    return module.adapter if isinstance(module, WithBottleneck | BesideMlp) else None


def place_bottlenecks(
    model: PreTrainedModel, places: Places, size: int, non_linearity: str, scale: float
) -> dict[str, Bottleneck]:
    """Put bottlenecks into every block of a model, drawn from torch's generator.

    Returns: them by block and part, such as `layers.3.mlp`; fewer than one a block and part where the model's blocks
        are built in another way.

    Errors: packed.unknown_architecture.
    """
    found: dict[str, Bottleneck] = {}
    for name, path in _parts(model, places):
        part = model.get_submodule(path)
        adapter = Bottleneck(_width(model), size, non_linearity, scale)
        adapter.to(dtype=model.dtype, device=model.device)
        form = BesideMlp if places == "parallel" else WithBottleneck
        parent, _, child = path.rpartition(".")
        model.get_submodule(parent).add_module(child, form(part, adapter))
        found[name] = adapter
    return found


def expected_places(model: PreTrainedModel, places: Places) -> int:
    """How many bottlenecks a model gets."""
    return count_layers(model) * (2 if places == "houlsby" else 1)


def _parts(model: PreTrainedModel, places: Places) -> Iterator[tuple[str, str]]:
    """What a bottleneck stands after or beside: its name in files, and the module's own."""
    sites = find_sites(model)
    if not sites.mlp or (places == "parallel" and is_encoder(model)):
        return  # nothing but experts, in tensors of their own; or an MLP that is no module of its own
    last = {"mlp": sites.mlp[-1], **({"attention": sites.attention[-1]} if places == "houlsby" else {})}
    in_attention = f".{sites.attention[-1]}"
    for path in [path for path, _ in model.named_modules()]:
        for part, layer_name in last.items():
            named_alike = part == "mlp" and path.endswith(in_attention)  # in BERT both end in output.dense
            if path.endswith(f".{layer_name}") and not named_alike and layer_of(f"{path}.") is not None:
                taken = path.rpartition(".")[0] if places == "parallel" else path
                yield f"layers.{layer_of(f'{path}.')}.{part}", taken


def _width(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().hidden_size)
