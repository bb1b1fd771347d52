"""How near a fit came to the machine's limit: useful utilisation U, kernel efficiency E and waste W, U = E / W.

    U = needed / (seconds x peak)       needed: FLOPs of the exact loss and its gradients, by the formulas below
    W = executed / needed               executed: FLOPs of what the engine really computes
    E = executed / (seconds x peak)     peak: best matrix product measured in the number format of the run

The formulas are those of `plan/sizes.py`. A matrix of the blocks costs 4 FLOPs a number and token (forward, and the
gradient of its input), 6 where it trains, 2 in blocks below all that trains, where nothing flows back; the head the
same at positions that carry loss only; attention 3 a, where a is two products of 2 FLOPs a pair of tokens and width of
the queries. Norms, activations, softmax, embedding and optimizer count as nothing: their time lowers E. Two things
torch leaves out are counted all the same, as everybody counts: gradients of the first block's input where nothing
before it trains (0.3 % of SmolLM2-135M), and the last product of a block whose activations are computed again.

needed    real tokens of batches that carry loss; a beginning that rows share stands once, so that U stays below 1,
          and the tokens which sharing saved are told beside it; attention is half of each document's square. Virtual
          tokens stand once a batch and count as work, not as tokens.
executed  all tokens (but in the last of the fast blocks only the kept ones, behind its attention: W may come out a
          little below 1), also those of a row that is repeated because rows do not go round among processes; the
          products of attention in the blocks it takes them in; a second forward pass where activations are computed
          again; logits made twice where the head trains.

Seconds are those of the steps, without validation and checkpoints. Passes that were refused memory and run again take
time and are not counted: they lower E.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from tunesmith.core.events import Value
from tunesmith.models.attention import documents_in_blocks
from tunesmith.models.beginning import VirtualTokens, beginning_of
from tunesmith.models.blocks import blocks_below_training, late_parts, padded_parts
from tunesmith.models.encoder_attention import padded_lengths
from tunesmith.models.experts import ExpertLayer, expert_layers
from tunesmith.models.packed import Documents, Packed, places
from tunesmith.models.policy import Policy
from tunesmith.models.quantized import held_numbers
from tunesmith.models.sites import is_encoder
from tunesmith.runtime.peak import Peak


class Work(NamedTuple):
    """What batches hold and cost. `shared` are tokens not computed because rows begin alike."""

    tokens: float = 0.0
    needed: float = 0.0
    executed: float = 0.0
    shared: float = 0.0


@dataclass(frozen=True)
class Meter:
    """FLOPs of one model, forward and backward.

    Args:
        frozen: numbers in the matrices of the blocks that do not train.
        trained: numbers in those that do, and in those an adaptation adds.
        head: numbers of the output embedding.
        head_trains: whether it moves.
        attention_width: width of the queries times layers.
        read_only, attention_read: of frozen numbers and of that width, what lies in blocks below all that trains.
        unread, attention_unread: of these, what lies in blocks whose outputs are kept, so that nobody runs them.
        kept_frozen, kept_trained: of these numbers, the ones that only the kept positions meet (last of fast blocks).
        padded_frozen, padded_trained: of these numbers, the ones that meet padding too (last block of an encoder).
        places, virtual: of a learned beginning, and of these the ones that the model reads like tokens.
        network: numbers in the matrices that give the beginning.
        again: whether activations are computed again in the backward pass.
        plain_attention: whether attention is plain products of our own (on a CPU) or the library's kernel.
        both_ways: whether a token also attends to those behind it (an encoder): whole squares, padded to bands.
    """

    frozen: int
    trained: int
    head: int
    head_trains: bool
    attention_width: int
    read_only: int = 0
    attention_read: int = 0
    unread: int = 0
    attention_unread: int = 0
    kept_frozen: int = 0
    kept_trained: int = 0
    padded_frozen: int = 0
    padded_trained: int = 0
    places: int = 0
    virtual: int = 0
    network: int = 0
    again: bool = False
    plain_attention: bool = True
    both_ways: bool = False

    @classmethod
    def of(cls, policy: Policy, *, again: bool, device: str) -> Meter:
        """The meter of a policy with its adaptation in place."""
        body, config = policy.model.base_model, policy.model.config.get_text_config()
        head = policy.head
        late = late_parts(policy.model)
        below, beginning = blocks_below_training(policy.model), beginning_of(policy.model)
        experts = expert_layers(body)
        modules_below = {id(each) for block in below for each in block.modules()}
        experts_below = [each for each in experts if id(each.experts) in modules_below]
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            frozen=_frozen_numbers(body) + _met(experts, trained=False),
            trained=_trained_numbers(body) + _met(experts, trained=True),
            kept_frozen=sum(map(_frozen_numbers, late)),
            kept_trained=sum(map(_trained_numbers, late)),
            padded_frozen=sum(map(_frozen_numbers, padded_parts(policy.model))),
            padded_trained=sum(map(_trained_numbers, padded_parts(policy.model))),
            head=head.numel(),
            head_trains=head.requires_grad,
            attention_width=config.num_attention_heads * head_size * config.num_hidden_layers,
            read_only=sum(map(_frozen_numbers, below)) + _met(experts_below, trained=False),
            attention_read=config.num_attention_heads * head_size * len(below),
            unread=sum(map(_frozen_numbers, below[: policy.blocks_kept])),
            attention_unread=config.num_attention_heads * head_size * policy.blocks_kept,
            places=beginning.length if beginning else 0,
            virtual=beginning.length if isinstance(beginning, VirtualTokens) else 0,
            network=_trained_numbers(beginning) if beginning else 0,
            again=again,
            plain_attention=device == "cpu",
            both_ways=is_encoder(policy.model),
        )

    def of_batches(self, batches: Sequence[Packed], *, reads: int = 0) -> Work:
        """What the micro-batches of a step cost together, each of them read so often before it ran."""
        found = Work(*map(sum, zip(*(self.of_batch(each) for each in batches), strict=True)))
        return found._replace(executed=found.executed + reads * sum(map(self._read, batches)))

    def _read(self, batch: Packed) -> float:
        """FLOPs of a forward pass alone."""
        tokens, kept = batch.num_tokens + self.virtual, int(batch.keep.numel())
        laid = Documents.of(batch)
        if self.places:
            laid = laid.behind(self.places, unread=not self.virtual)
        late = (tokens - kept) * (self.kept_frozen + self.kept_trained)
        numbers = tokens * (self.frozen + self.trained - self.unread) - late + kept * self.head
        width = self.attention_width - self.attention_unread
        return 2 * (numbers + self.places * self.network + width * self._attention_products(laid)[0])

    def of_batch(self, batch: Packed) -> Work:
        """What one micro-batch costs, forward and backward."""
        tokens, kept = batch.num_tokens + self.virtual, int(batch.keep.numel())
        rows = laid = Documents.of(batch)
        if self.places:
            laid = rows.behind(self.places, unread=not self.virtual)
        documents = _lengths(laid)
        blocks = tokens * (4 * self.frozen + 6 * self.trained - 2 * (self.read_only + self.unread))
        blocks += 6 * self.places * self.network
        # A product of attention is 2 FLOPs a pair and width; forward has two of them, backward four.
        half = 1 if self.both_ways else 2
        pairs = sum(length * before + length * length / half for length, before in documents)
        attended = 12 * self.attention_width - 8 * self.attention_read - 4 * self.attention_unread
        needed = blocks + kept * self.head * (6 if self.head_trains else 4) + attended * pairs
        forward, backward = self._attention_products(laid)
        heads = kept * self.head * (8 if self.head_trains else 4)
        skipped = tokens - kept
        flowing_back = self.attention_width - self.attention_read
        forward_width = self.attention_width - self.attention_unread
        executed = blocks + heads + 2 * (forward_width * forward + flowing_back * backward)
        padding = (
            sum(padded_lengths([length for length, _ in _lengths(laid)])) - tokens
            if self.both_ways and not self.places
            else 0
        )
        executed += padding * ((4 if flowing_back else 2) * self.padded_frozen + 6 * self.padded_trained)
        executed -= skipped * ((4 if flowing_back else 2) * self.kept_frozen + 6 * self.kept_trained)
        if self.again:
            executed += tokens * 2 * (self.frozen + self.trained - self.read_only) + 2 * flowing_back * forward
            executed -= skipped * 2 * (self.kept_frozen + self.kept_trained) if flowing_back else 0
        return Work(batch.num_tokens, needed if kept else 0.0, executed, _shared_tokens(rows))

    def _attention_products(self, documents: Documents) -> tuple[float, float]:
        """Pairs of tokens times products, forward and backward, as `models/attention.py` takes them.

        Where the shares are not kept, backward makes them again: a fifth product. The library's kernel does so always;
        its pairs are half of the square, or the whole rectangle where a document continues another.
        """
        forward = backward = 0.0
        if self.both_ways:
            lengths = _lengths(documents)
            padded = padded_lengths([length for length, _ in lengths])
            pairs = float(sum(each * (before + each) for each, (_, before) in zip(padded, lengths, strict=True)))
            return 2 * pairs, 4 * pairs
        if self.plain_attention:
            for document in documents_in_blocks(documents):
                pairs = float(sum((block.last - block.first) * block.reach for block in document.blocks))
                forward += 2 * pairs
                backward += (4 if document.is_kept else 5) * pairs
            return forward, backward
        for length, before in _lengths(documents):
            pairs = length * (before + length) if before else length * length / 2
            forward += 2 * pairs
            backward += 5 * pairs
        return forward, backward


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights that a token is multiplied with."""
    inner = (each for each in module.modules() if not isinstance(each, nn.Embedding))
    return [weight for each in inner for weight in each.parameters(recurse=False) if weight.ndim == 2]


def _trained_numbers(module: nn.Module) -> int:
    return sum(each.numel() for each in _matrices(module) if each.requires_grad)


def _frozen_numbers(module: nn.Module) -> int:
    """Those in codes among them: they are multiplied as the numbers that they stand for."""
    return held_numbers(module) + sum(each.numel() for each in _matrices(module) if not each.requires_grad)


def _met(layers: Sequence[ExpertLayer], *, trained: bool) -> int:
    """Numbers of experts that a token meets, rows taken to go round evenly; of those that move, their share."""
    total = 0.0
    for layer in layers:
        moves = sum(each.numel() for each in layer.experts.parameters(recurse=False) if each.requires_grad)
        whole = sum(each.numel() for each in layer.stacks)
        total += (moves if trained else whole - moves) * layer.top_k / layer.count
    return round(total)


def _lengths(documents: Documents) -> list[tuple[int, int]]:
    """Tokens of every document that is read, and those before it."""
    return [(last - first, places(before)) for (first, last), before in documents.chains()]


def _shared_tokens(documents: Documents) -> float:
    """Tokens that would stand in the batch again if no document continued another."""
    continued = {parent for parent in documents.parents if parent >= 0}
    sizes = [last - first for first, last in documents.spans]
    again = sum(sizes[parent] for parent in documents.parents if parent >= 0)
    return float(again - sum(sizes[parent] for parent in continued))


@dataclass(frozen=True)
class Efficiency:
    """The three figures of a fit."""

    useful: float
    kernel: float
    waste: float

    @classmethod
    def of(cls, needed: float, executed: float, seconds: float, peak: float) -> Efficiency | None:
        """None where nothing was trained."""
        if needed <= 0 or seconds <= 0 or peak <= 0:
            return None
        return cls(needed / (seconds * peak), executed / (seconds * peak), executed / needed)


def efficiency_facts(work: Work, seconds: float, peak: Peak) -> dict[str, Value]:
    """For the event that tells them; empty where nothing was trained."""
    found = Efficiency.of(work.needed, work.executed, seconds, peak.flops_per_second)
    if found is None:
        return {}
    return {
        "tokens_per_second": round(work.tokens / seconds, 1),
        "useful_utilisation": round(found.useful, 4),
        "kernel_efficiency": round(found.kernel, 4),
        "waste": round(found.waste, 4),
        "needed_flops": work.needed,
        "executed_flops": work.executed,
        "seconds": round(seconds, 3),
        "peak_flops": peak.flops_per_second,
        "dtype": peak.dtype,
        "calibrated": peak.calibrated,
        "shared_tokens": int(work.shared),
    }
