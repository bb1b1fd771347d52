"""Chat templates in the shapes that real models use, and a small tokenizer that knows their marks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tunesmith.models.byte_bpe import build_tokenizer, merges_of, pre_tokenizer
from tunesmith.models.tiny import CHATML_TEMPLATE


@dataclass(frozen=True)
class Shape:
    """A template and the tokens that end an answer in it."""

    template: str
    ends: tuple[str, ...]


CHATML = Shape(CHATML_TEMPLATE, ("<|im_end|>",))

LLAMA3 = Shape(
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ("<|eot_id|>",),
)

# Thinking stays only in turns after the last question, which always have a thinking part.
QWEN3 = Shape(
    """
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- '# Tools\n<tools>' }}
    {%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- elif m.role == 'assistant' %}
        {%- set content, thought = m.content, '' %}
        {%- if '</think>' in m.content %}
            {%- set thought = m.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = m.content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {%- for call in m.tool_calls or [] %}
            {{- '\n' if content or not loop.first }}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""",
    ("<|im_end|>",),
)

# [INST] is plain text here; the blank before an answer belongs to the answer, as its first token has it.
MISTRAL = Shape(
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + ns.system + m['content'] + ' [/INST]' }}{% set ns.system = '' %}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
    ("</s>",),
)

GEMMA = Shape(
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ("<end_of_turn>",),
)

# The whole conversation is closed once more, and both tokens end an answer.
PHI = Shape(
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}",
    ("<|end|>", "<|endoftext|>"),
)

# Thinking is taken out of every turn.
DEEPSEEK = Shape(
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% else %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
    ("<｜end▁of▁sentence｜>",),
)

# As DeepSeek, but the prompt already opens the thinking, which the turns of a conversation never show.
DEEPSEEK_R1 = Shape(
    DEEPSEEK.template.replace("'<｜Assistant｜>' }}{% endif %}", "'<｜Assistant｜><think>\n' }}{% endif %}"),
    DEEPSEEK.ends,
)

_GLM = """[gMASK]<sop>
{%- if tools %}
    {{- '<|system|>\n# Tools' }}
    {%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {{- '<|observation|>\n<tool_response>' + m.content + '</tool_response>' }}
    {%- else %}
        {{- '<|' + m.role + '|>\n' + m.content }}
        {%- for call in m.tool_calls or [] %}
            {{- '\n<tool_call>' + call.function.name }}
            {%- for key, value in call.function.arguments.items() %}
                {{- '\n<arg_key>' + key + '</arg_key>\n<arg_value>' + (value | string) + '</arg_value>' }}
            {%- endfor %}
            {{- '\n</tool_call>' }}
        {%- endfor %}CLOSE
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"""
GLM_OPEN = Shape(_GLM.replace("CLOSE", ""), ("<|endoftext|>",))
"""As published: the next turn's mark ends an answer, so nothing does in the last turn."""
GLM = Shape(
    _GLM.replace("CLOSE", "\n        {%- if m.role == 'assistant' %}{{- '<|endoftext|>' }}{%- endif %}"),
    ("<|endoftext|>",),
)

# A colon and a blank stand before the answer: in most vocabularies the blank is part of the answer's first word.
PLAIN = Shape(
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    ("</s>",),
)

SHAPES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi": PHI,
    "deepseek": DEEPSEEK,
    "glm": GLM,
    "plain": PLAIN,
}

_MARKS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> </s> "
    "<start_of_turn> <end_of_turn> <|system|> <|user|> <|assistant|> <|observation|> <|end|> [gMASK] <sop> "
    "<｜User｜> <｜Assistant｜> <｜end▁of▁sentence｜>"
).split()
_LINES = (
    "user: hi\n\n\n  assistant: hello there\n\nsystem: be brief\n\n\n\n   answer\n\n\tHello Hello Hello",
    "你好，今天天气很好。谢谢！\n\n 你好 你好，今天天气很好。你们好",
    "[INST] hi [/INST] hello [/INST]  hello\n[/INST]\nhello [/INST]hello",
    "<think>\nhm\n</think>\n\nyes <tool_call>\n</tool_call> 🎻🎻 12 123 1234 can't it's",
)


@cache
def _backend(pre: str) -> str:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer(pre)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=_MARKS, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(_LINES * 4, trainer)
    learned = learner.get_vocab()
    tokens = sorted(learned, key=learned.__getitem__)
    return build_tokenizer(tokens, merges_of(learner), _MARKS, pre).to_str()


def tokenizer_for(shape: Shape, pre: str = "smollm") -> PreTrainedTokenizerFast:
    """The small tokenizer with a template; `pre` is a split that llama.cpp knows by that name."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(pre)),
        bos_token="<|begin_of_text|>",
        eos_token=shape.ends[0],
        pad_token=shape.ends[0],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = shape.template
    return tokenizer
