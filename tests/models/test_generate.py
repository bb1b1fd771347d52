"""Batched generation against transformers' own, one prompt at a time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from tunesmith.core.errors import TunesmithError
from tunesmith.models.generate import Completion, Decoder, GenerateSettings, common_prefix, generate, generating
from tunesmith.models.policy import Policy
from tunesmith.models.text_stream import TextStream
from tunesmith.models.tiny import tiny_chat_model

END = 2


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load(tiny_chat_model(tmp_path_factory.mktemp("tiny") / "model", spread=0.3))


def some_prompts(count: int, vocabulary: int, shared: int = 0) -> list[list[int]]:
    draw = random.Random(5)
    begin = [draw.randrange(3, vocabulary) for _ in range(shared)]
    return [begin + [draw.randrange(3, vocabulary) for _ in range(draw.randint(1, 40))] for _ in range(count)]


def one_by_one(model: PreTrainedModel, prompts: list[list[int]], length: int, end: int) -> list[tuple[int, ...]]:
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=end,
            pad_token_id=end,
        )
        answer = out[0, len(prompt) :].tolist()
        answers.append(tuple(answer[: answer.index(end)] if end in answer else answer))
    return answers


def ids_of(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_greedy_is_what_transformers_gives(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase], batch_size: int, shared: int
) -> None:
    model, tokenizer = tiny
    prompts = some_prompts(17, model.config.vocab_size, shared)
    # An end token that the random model really chooses, so that answers end at different steps.
    end = one_by_one(model, prompts[:1], 12, END)[0][4]
    settings = GenerateSettings(max_new_tokens=24, end_token_ids=(end,))
    found = generate(model, tokenizer, prompts, settings, batch_size=batch_size)
    assert ids_of(found) == one_by_one(model, prompts, 24, end)
    assert {completion.finish_reason for completion in found} == {"stop", "length"}
    for completion in found:
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)


SMALL = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 2,
}
FAMILIES = [
    MistralConfig(**SMALL, sliding_window=6),
    Qwen3Config(**SMALL),
    Gemma3TextConfig(**SMALL, sliding_window=6, layer_types=["sliding_attention", "full_attention"]),
]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_other_families_and_windows(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase], config: PretrainedConfig
) -> None:
    tokenizer = tiny[1]
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    prompts = some_prompts(6, 384, shared=20)
    found = generate(model, tokenizer, prompts, GenerateSettings(20), batch_size=4)
    assert ids_of(found) == one_by_one(model, prompts, 20, 383)


def test_a_policy_with_an_adapter_generates_and_goes_on(
    tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    model, tokenizer = load(tiny_chat_model(tmp_path / "model", spread=0.3))
    torch.manual_seed(0)
    adapted = inject_adapter_in_model(
        LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5), model
    )
    policy = Policy(adapted.eval())
    packed = adapted.config._attn_implementation
    prompts = some_prompts(5, model.config.vocab_size, shared=20)
    found = ids_of(generate(adapted, tokenizer, prompts, GenerateSettings(12)))
    assert adapted.config._attn_implementation == packed != "sdpa"
    assert policy.model is adapted
    model.set_attn_implementation("sdpa")
    assert found == one_by_one(adapted, prompts, 12, END)
    assert found != ids_of(generate(*tiny, prompts, GenerateSettings(12)))


def test_weights_that_are_not_finite_are_said(tmp_path: Path) -> None:
    model, tokenizer = load(tiny_chat_model(tmp_path / "model"))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 3] = float("nan")
    with pytest.raises(TunesmithError, match=r"generate\.not_finite"):
        generate(model, tokenizer, [[5, 6]], GenerateSettings(3))


def test_prompts_join_and_leave_between_steps(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    prompts = some_prompts(12, model.config.vocab_size)
    settings = GenerateSettings(max_new_tokens=40)
    expected = one_by_one(model, prompts, 40, END)
    with generating(model):
        decoder = Decoder(model, tokenizer, batch_size=8)
        places, found, gone = {}, {}, 0
        for step in range(200):
            if step % 3 == 0 and len(places) < len(prompts):
                places[decoder.add(prompts[len(places)], settings)] = len(places)
            if step == 20:
                decoder.remove(gone)
            for progress in decoder.step():
                if progress.completion is not None:
                    found[places[progress.number]] = progress.completion.token_ids
            if not decoder.busy:
                break
    assert set(found) == set(range(1, 12))
    assert all(found[place] == expected[place] for place in found)


def test_smollm2_greedy_is_what_transformers_gives(smollm2: Path) -> None:
    model, tokenizer = load(smollm2)
    questions = ["What is the capital of France?", "用一句话介绍你自己。", "Name three colours.", "2 + 2 ="]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in questions
    ]
    end = tokenizer.eos_token_id
    found = generate(model, tokenizer, prompts, GenerateSettings(max_new_tokens=16, end_token_ids=(end,)))
    assert ids_of(found) == one_by_one(model, prompts, 16, end)


def test_sampling_depends_on_the_seed_alone(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    prompts = some_prompts(4, model.config.vocab_size)
    settings = [GenerateSettings(20, temperature=0.8, top_p=0.9, seed=seed) for seed in (1, 2, 3, 4)]
    together = generate(model, tokenizer, prompts, settings)
    alone = [generate(model, tokenizer, [prompt], each)[0] for prompt, each in zip(prompts, settings, strict=True)]
    assert ids_of(together) == ids_of(alone)
    other = generate(model, tokenizer, prompts, GenerateSettings(20, temperature=0.8, seed=9))
    assert ids_of(other) != ids_of(together)


def test_a_tiny_temperature_or_nucleus_is_greedy(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    prompts = some_prompts(3, model.config.vocab_size)
    greedy = ids_of(generate(model, tokenizer, prompts, GenerateSettings(10)))
    assert ids_of(generate(model, tokenizer, prompts, GenerateSettings(10, temperature=1e-9))) == greedy
    assert ids_of(generate(model, tokenizer, prompts, GenerateSettings(10, temperature=1.0, top_p=1e-9))) == greedy


def test_sampling_follows_the_probabilities() -> None:
    from tunesmith.models.sampling import choose

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)
    settings = GenerateSettings(1, temperature=1.0, top_p=0.7)
    draws = torch.tensor([choose(logits.clone(), settings, generator, None).token_id for _ in range(4000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(shares, torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)


def test_logprobs_are_those_of_a_plain_forward_pass(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    prompt = some_prompts(1, model.config.vocab_size)[0]
    found = generate(model, tokenizer, [prompt], GenerateSettings(6, logprobs=3))[0]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + list(found.token_ids)])).logits[0].float()
    expected = torch.log_softmax(logits, -1)[len(prompt) - 1 :]
    for place, chosen in enumerate(found.chosen):
        assert chosen.logprob == pytest.approx(float(expected[place, chosen.token_id]), abs=1e-4)
        assert [each.token_id for each in chosen.top] == expected[place].topk(3).indices.tolist()


def test_stop_text_is_cut_off_and_never_shown(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    prompt = some_prompts(1, model.config.vocab_size)[0]
    whole = generate(model, tokenizer, [prompt], GenerateSettings(30))[0].text
    stop = whole[9:12]
    pieces: list[str] = []
    found = generate(
        model,
        tokenizer,
        [prompt],
        GenerateSettings(30, stop=(stop, "never")),
        on_token=lambda progress: pieces.append(progress.text),
    )[0]
    assert found.text == whole[: whole.index(stop)] == "".join(pieces)
    assert found.finish_reason == "stop"


def test_the_stream_never_shows_half_a_character(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    _, tokenizer = tiny
    text = "价格是 5 元，谢谢🙂 bye"
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in tokenizer.encode(text, add_special_tokens=False)]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_context_ends_the_answer(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    context = model.config.max_position_embeddings
    prompt = [5] * (context - 3)
    found = generate(model, tokenizer, [prompt], GenerateSettings(50))[0]
    assert (len(found.token_ids), found.finish_reason) == (3, "length")
    with pytest.raises(TunesmithError, match=r"generate\.prompt_too_long"):
        generate(model, tokenizer, [[5] * context], GenerateSettings(5))
    with pytest.raises(TunesmithError, match=r"generate\.empty_prompt"):
        generate(model, tokenizer, [[]], GenerateSettings(5))


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"temperature": float("nan")}, {"temperature": -1.0}, {"top_p": 0.0}, {"stop": ("",)}],
)
def test_senseless_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(TunesmithError, match=r"generate\.bad_setting"):
        GenerateSettings(**{"max_new_tokens": 1, **settings})  # type: ignore[arg-type]


def test_the_model_is_left_as_it_was(tiny: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = tiny
    model.set_attn_implementation("eager")
    model.train()
    generate(model, tokenizer, [[4, 5]], GenerateSettings(2))
    assert model.training and model.config._attn_implementation == "eager"
    model.eval()
    model.set_attn_implementation("sdpa")


def test_common_prefix_leaves_a_token_of_each() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == (1,)
    assert common_prefix([[1, 2], [1, 2]]) == (1,)
    assert common_prefix([[1], [2, 3]]) == ()
