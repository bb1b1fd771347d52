"""The last block of an encoder, where only one token of every document is ever asked for.

All tokens give keys and values, laid out with their padding first (`encoder_attention.py`), so that steps of as many
documents have products of the same shapes; query, attention, residuals and the wide layers run for the asked ones
alone. With one of 16 tokens asked for, the block costs a sixth. Nothing is left out of the result: the plain block
stays the reference.

Shape letters: T tokens, D documents, K asked positions (here K = D), H heads, S size of a head, W width.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertAttention, BertIntermediate, BertLayer, BertOutput
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from tunesmith.models.encoder_attention import attention_at, bands
from tunesmith.models.packed import Documents

ENCODER_BLOCKS = (BertLayer, RobertaLayer, XLMRobertaLayer)


class LastEncoderBlock(GradientCheckpointingLayer):
    """A last block that goes on only with the positions that `keep` names.

    Args:
        plain: the block whose place it takes; its children become children of this one.
    """

    attention: BertAttention
    intermediate: BertIntermediate
    output: BertOutput

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self._plain = (plain,)  # in a tuple, so that its parameters are not named twice
        for name, child in plain.named_children():
            self.add_module(name, child)
        self.train(plain.training)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: None = None,
        **arguments: object,
    ) -> Tensor:
        """The output at the asked positions of a packed batch, [1, K, W]; of anything else the plain block's."""
        documents, keep = arguments.get("documents"), arguments.get("keep")
        if not isinstance(documents, Documents) or not isinstance(keep, Tensor):
            output: Tensor = self._plain[0](hidden_states, attention_mask, **arguments)
            return output
        if not documents.one_each(keep):
            output = self._plain[0](hidden_states, attention_mask, **arguments)
            # BERT's own pooler wants a first token, also of a batch in which nobody is asked for anything.
            return output[:, keep] if len(keep) else output[:, :1]
        return self._at_one_token(hidden_states, documents, keep)

    def _at_one_token(self, hidden_1TW: Tensor, documents: Documents, keep_K: Tensor) -> Tensor:
        attention = self.attention.self
        asked_1KW = hidden_1TW[:, keep_K]
        heads = (-1, attention.attention_head_size)
        query_KHS = attention.query(asked_1KW)[0].unflatten(1, heads)
        laid = bands(documents, hidden_1TW.device, hidden_1TW.dtype)
        hidden = laid.laid(hidden_1TW[0])
        keys, values = (
            [each(band_DLW).unflatten(2, heads) for band_DLW in hidden] for each in (attention.key, attention.value)
        )
        dropout = attention.dropout.p if self.training else 0.0
        attended_KHS = attention_at(query_KHS, keys, values, laid, attention.scaling, dropout)
        between_1KW = self.attention.output(attended_KHS.flatten(1)[None], asked_1KW)
        output_1KW: Tensor = self.output(self.intermediate(between_1KW), between_1KW)
        return output_1KW
