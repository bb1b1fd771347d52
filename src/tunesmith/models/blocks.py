"""Faster exact forms of decoder blocks, put in their place on one model; the plain block stays inside as reference.

A fast block has the children of the plain one under the same names, so weights, adapters and files are named as
before. It answers packed batches itself and hands everything else (padded generation, for one) to the plain block.

Shape letters as in fused.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaMLP, LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3DecoderLayer

from tunesmith.core.errors import TunesmithError
from tunesmith.models.attention import behind_learned, check_window, document_attention
from tunesmith.models.beginning import beginning_of
from tunesmith.models.bottleneck import WithBottleneck, adapter_of, project
from tunesmith.models.dora import Lengths, factors, gated
from tunesmith.models.encoder_blocks import ENCODER_BLOCKS, LastEncoderBlock
from tunesmith.models.fused import Projection, add_projection, gated_mlp, normed_projections, rotate, with_lengths
from tunesmith.models.lora_experts import mixture_of
from tunesmith.models.packed import Documents
from tunesmith.models.quantized import QuantizedLinear, weight_of

_FORMS = (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
"""Blocks of this shape: norm, attention with rotary positions, residual, norm, gated MLP, residual."""

Choice = Literal["auto", "fast", "plain"]


def projection_of(layer: nn.Module) -> Projection | None:
    """A linear layer, with its LoRA addition if PEFT has put one there; None for every other kind of layer.

    A bottleneck after it is the caller's affair.
    """
    if type(layer) in (nn.Linear, QuantizedLinear):
        plain = cast(nn.Linear, layer)
        return Projection(weight_of(plain), plain.bias)
    if type(layer) is WithBottleneck:
        return projection_of(layer.base_layer)
    if type(layer) is not LoraLinear or layer.merged:
        return None
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear):
        return None
    weight = weight_of(base)
    if layer.disable_adapters or not layer.active_adapters:
        return Projection(weight, base.bias)
    name = layer.active_adapters[0]
    low, high = cast(nn.Linear, layer.lora_A[name]), cast(nn.Linear, layer.lora_B[name])
    dropout: nn.Module = layer.lora_dropout[name]
    lengths = layer.lora_magnitude_vector[name] if name in layer.lora_magnitude_vector else None
    if (
        len(layer.active_adapters) > 1
        or (name in layer.lora_variant and type(lengths) is not DoraLinearLayer)  # other kinds of PEFT's
        or not isinstance(dropout, nn.Identity)
        or layer.lora_bias[name]
        or low.weight.dtype != weight.dtype
    ):
        return None
    found = Projection(weight, base.bias, low.weight, high.weight, float(layer.scaling[name]))
    if lengths is None:
        return found
    turned_O = factors(found.dense, low.weight, high.weight, found.scale, lengths.get_parameter("weight"))
    return replace(found, bias=None, lengths=Lengths(turned_O, base.bias))


class FastBlock(GradientCheckpointingLayer):
    """A decoder block for packed batches in four fused functions and the attention of documents.

    Args:
        plain: the block whose place it takes; its children become children of this one.
        is_last: the model's last block: it goes on only with the positions that `keep` names, since of the others
            nothing but keys and values is ever used again.
    """

    # Llama's names stand for the same parts of the other architectures.
    self_attn: LlamaAttention | Qwen3Attention
    mlp: LlamaMLP
    input_layernorm: LlamaRMSNorm
    post_attention_layernorm: LlamaRMSNorm

    def __init__(self, plain: nn.Module, is_last: bool = False) -> None:
        super().__init__()
        self._is_last = is_last
        self._plain = (plain,)  # in a tuple, so that its parameters are not named twice
        for name, child in plain.named_children():
            self.add_module(name, child)
        self.train(plain.training)

    def forward(self, hidden_states: Tensor, **arguments: object) -> Tensor:
        """The block's output for a packed batch, [1, T, W], or [1, K, W] from the last block."""
        documents, keep = arguments.get("documents"), arguments.get("keep") if self._is_last else None
        if not isinstance(documents, Documents):
            return self._plain_output(hidden_states, arguments)
        kept = keep if isinstance(keep, Tensor) else None
        projections = self._projections()
        if projections is None:
            output = self._plain_output(hidden_states, arguments)
            return output if kept is None else output[:, kept]
        cos, sin = cast(tuple[Tensor, Tensor], arguments["position_embeddings"])
        learned = arguments.get("learned")
        return self._packed(hidden_states[0], documents, cos[0], sin[0], projections, kept, learned)[None]

    def _plain_output(self, hidden_states: Tensor, arguments: dict[str, object]) -> Tensor:
        output: Tensor = self._plain[0](hidden_states, **arguments)
        return output

    def _projections(self) -> dict[str, Projection] | None:
        """Every linear layer by name; None when one of them is of a kind the fast form does not know."""
        layers = [*self.self_attn.named_children(), *self.mlp.named_children()]
        found = {name: projection_of(layer) for name, layer in layers if name.endswith("_proj")}
        known = {name: each for name, each in found.items() if each is not None}
        return known if len(known) == len(found) else None

    def _packed(
        self,
        input_TW: Tensor,
        documents: Documents,
        cos_TS: Tensor,
        sin_TS: Tensor,
        linear: dict[str, Projection],
        keep_K: Tensor | None,
        learned: object,
    ) -> Tensor:
        attention, first_norm = self.self_attn, self.input_layernorm
        check_window(documents, getattr(attention, "sliding_window", None))
        size = attention.head_dim
        query, key, value = _read(first_norm, input_TW, linear["q_proj"], linear["k_proj"], linear["v_proj"])
        groups = key.shape[1] // size
        query_TGRS, key_TGRS = query.unflatten(1, (groups, -1, size)), key.unflatten(1, (groups, 1, size))
        if isinstance(attention, Qwen3Attention):
            query_TGRS, key_TGRS = attention.q_norm(query_TGRS), attention.k_norm(key_TGRS)
        key_GTS = rotate(key_TGRS, cos_TS, sin_TS)[:, :, 0]
        value_GTS = value.unflatten(1, (groups, size)).transpose(0, 1)
        key_GTS, value_GTS = behind_learned(attention, key_GTS, value_GTS, learned)
        query_GTRS = rotate(query_TGRS, cos_TS, sin_TS)
        attended_GTRS = document_attention(query_GTRS, key_GTS, value_GTS, documents, attention.scaling)
        attended_TW = attended_GTRS.transpose(0, 1).flatten(1)
        if keep_K is not None:
            attended_TW, input_TW = attended_TW[keep_K], input_TW[keep_K]
        between_TW = self._after_attention(input_TW, attended_TW, linear["o_proj"])
        return self._after_mlp(between_TW, linear["gate_proj"], linear["up_proj"], linear["down_proj"])

    def _after_attention(self, input_TW: Tensor, attended_TW: Tensor, out: Projection) -> Tensor:
        adapter = adapter_of(self.self_attn.o_proj)
        if adapter is None and out.lengths is None:
            return add_projection(input_TW, attended_TW, out)
        output_TW = project(attended_TW, out)
        return input_TW + output_TW if adapter is None else adapter.added_to(input_TW + output_TW, output_TW)

    def _after_mlp(self, input_TW: Tensor, gate: Projection, up: Projection, down: Projection) -> Tensor:
        norm_W, eps = self.post_attention_layernorm.weight, self.post_attention_layernorm.variance_epsilon
        after, beside, mixture = adapter_of(self.mlp.down_proj), adapter_of(self.mlp), mixture_of(self.mlp)
        if mixture is not None:
            read = Projection(mixture.reads(), None)
            gate_TO, up_TO, read_T = normed_projections(input_TW, norm_W, eps, [gate, up, read])
            gate_TO, up_TO, shares_T = mixture.mixed(read_T, gate_TO, up_TO)
            inner_TO = silu(gate_TO) * up_TO
            return add_projection(input_TW + mixture.down(inner_TO, shares_T), inner_TO, down)
        if after is not None or any(each.lengths is not None for each in (gate, up, down)):
            gate_TO, up_TO = normed_projections(input_TW, norm_W, eps, [gate, up])
            output_TW = project(_opened(gate_TO, up_TO, gate, up), down)
            return input_TW + output_TW if after is None else after.added_to(input_TW + output_TW, output_TW)
        output_TW = gated_mlp(input_TW, norm_W, eps, gate, up, down)
        if beside is None:
            return output_TW
        (middle_TN,) = normed_projections(input_TW, norm_W, eps, [Projection(beside.down.weight, beside.down.bias)])
        return beside.finished(output_TW, middle_TN)


def _read(norm: LlamaRMSNorm, input_TW: Tensor, *projections: Projection) -> list[Tensor]:
    """The normed input through each projection, [T, O] each."""
    outputs = normed_projections(input_TW, norm.weight, norm.variance_epsilon, projections)
    return [with_lengths(output_TO, each) for output_TO, each in zip(outputs, projections, strict=True)]


def _opened(gate_TO: Tensor, up_TO: Tensor, gate: Projection, up: Projection) -> Tensor:
    """silu(gate) * up, [T, O], from what their products gave."""
    if gate.lengths is not None and up.lengths is not None:
        return gated(gate_TO, up_TO, gate.lengths, up.lengths)
    return silu(with_lengths(gate_TO, gate)) * with_lengths(up_TO, up)


def _fits(layer: nn.Module) -> bool:
    """Whether the fast form computes what this block computes."""
    return (
        isinstance(layer, _FORMS)
        and type(layer) in _FORMS
        and isinstance(layer.mlp.act_fn, nn.SiLU | SiLUActivation)
        and not layer.self_attn.attention_dropout
    )


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The model's blocks in order; empty where they are not a plain list."""
    body = model.base_model
    layers = getattr(body, "layers", None) or getattr(getattr(body, "encoder", None), "layer", None)
    return layers if isinstance(layers, nn.ModuleList) else nn.ModuleList()


def ends_in_fast_block(model: PreTrainedModel) -> bool:
    """Whether the body gives only the kept positions."""
    layers = blocks_of(model)
    return len(layers) > 0 and isinstance(layers[-1], FastBlock | LastEncoderBlock)


def late_parts(model: PreTrainedModel) -> list[nn.Module]:
    """Parts of the last block that see only the kept positions; none where it is a plain block."""
    last = blocks_of(model)[-1] if ends_in_fast_block(model) else None
    if isinstance(last, LastEncoderBlock):
        return [last.attention.self.query, last.attention.output, last.intermediate, last.output]
    return [last.self_attn.o_proj, last.mlp] if isinstance(last, FastBlock) else []


def padded_parts(model: PreTrainedModel) -> list[nn.Module]:
    """Parts of the last block that also see the padding of documents laid side by side."""
    last = blocks_of(model)[-1] if ends_in_fast_block(model) else None
    return [last.attention.self.key, last.attention.self.value] if isinstance(last, LastEncoderBlock) else []


def blocks_below_training(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks that only read: nothing in them trains, nor anything before them."""
    embeddings = getattr(model.base_model, "embeddings", model.get_input_embeddings())
    if any(each.requires_grad for each in embeddings.parameters()) or beginning_of(model) is not None:
        return []
    layers = list(blocks_of(model))
    moving = (place for place, each in enumerate(layers) if any(one.requires_grad for one in each.parameters()))
    return layers[: next(moving, len(layers))]


def use_blocks(model: PreTrainedModel, choice: Choice) -> int:
    """Put fast blocks in place where they are exact; returns how many.

    Args:
        choice: `auto` where they fit, `fast` or an error, `plain` for none.

    Errors: packed.no_fast_blocks.
    """
    layers = blocks_of(model)
    fitting = [] if choice == "plain" else [place for place, layer in enumerate(layers) if _fits(layer)]
    if choice != "plain" and len(layers) and isinstance(layers[-1], ENCODER_BLOCKS):
        layers[-1] = LastEncoderBlock(layers[-1])
        return 1
    if choice == "fast" and not fitting:
        raise TunesmithError("packed.no_fast_blocks", architecture=str(model.config.model_type))
    for place in fitting:
        layers[place] = FastBlock(layers[place], is_last=place == len(layers) - 1)
    return len(fitting)
