"""E4, E5, E6: what is exported has the same tokens, the same ids and the number format that it states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import pytest
import torch
from faults_tally import Tally
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from tunesmith.adapt.attach import attach
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import MANIFEST, read_json, write_json
from tunesmith.core.types import Example, Message, Origin
from tunesmith.models.gguf_import import import_gguf
from tunesmith.models.load import BaseFolder, Loaded, load_model, load_tokenizer, resolve_base, template_of
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.models.weights import read_weights
from tunesmith.recipe.specs.adapt import FullSpec, LoraSpec
from tunesmith.recipe.specs.ship import ParityLimits, ShipFormat
from tunesmith.serve.questions import QuestionReader
from tunesmith.serve.requests import parse_chat
from tunesmith.ship.formats.gguf import write_gguf
from tunesmith.ship.formats.llama_cpp import LlamaJudge
from tunesmith.ship.formats.safetensors import write_safetensors
from tunesmith.ship.merge import merge
from tunesmith.ship.publish import Shipping, ship_formats
from tunesmith.tasks.chat import ChatTask

NEW_TOKENS = ("<|tool|>", "<|工具|>", "<|🙂|>")
TEXT = "<|im_start|>user\n<|tool|>订单 <|工具|> 12 🙂<|🙂|>ok<|im_end|>"


def stored_dtypes(path: Path) -> set[str]:
    """The number formats in a safetensors file, read here byte by byte."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {each["dtype"] for name, each in header.items() if name != "__metadata__"}


def in_format(folder: Path, dtype: torch.dtype, *, untied: bool = False) -> Path:
    """The model in a folder stored anew in a number format, with a head of its own if wanted; without a manifest."""
    (folder / MANIFEST).unlink(missing_ok=True)
    weights = {name: each.to(dtype) for name, each in load_file(folder / "model.safetensors").items()}
    config = {**read_json(folder / "config.json"), "dtype": str(dtype).removeprefix("torch.")}
    if untied:
        torch.manual_seed(5)
        weights["lm_head.weight"] = torch.randn_like(weights["model.embed_tokens.weight"]) / 20
        config["tie_word_embeddings"] = False
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    return folder


def with_new_tokens(folder: Path) -> Path:
    """Three tokens more in the tokenizer and in every matrix that has a row a token."""
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    before = tokenizer.get_vocab_size(with_added_tokens=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in NEW_TOKENS])
    tokenizer.save(str(path))
    torch.manual_seed(7)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            weights[name] = torch.cat([weights[name], torch.randn(3, weights[name].shape[1]) / 20])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "vocab_size": before + 3})
    return folder


def random_change(base: BaseFolder, folder: Path) -> Path:
    policy = Policy(load_model(base.path, dtype=torch.float32).model)
    attached = attach(policy, LoraSpec(kind="lora", rank=4), seed=1, base_name=base.name)
    folder.mkdir()
    torch.manual_seed(3)
    attached.save(folder, {name: torch.randn_like(each) / 4 for name, each in attached.delta().items()})
    return folder


def logits(loaded: Loaded, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        found: Tensor = loaded.model(torch.tensor([ids])).logits[0]
    return found


def with_weights(base: Path, weights: Mapping[str, Tensor]) -> Loaded:
    loaded = load_model(base, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            parameter.copy_(weights[name])
    return loaded


def as_q8(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What Q8_0 keeps of the matrices; vectors stay."""
    kind = gguf.GGMLQuantizationType.Q8_0
    return {
        name: torch.from_numpy(gguf.dequantize(gguf.quantize(each.float().numpy(), kind), kind))
        if each.dim() > 1
        else each
        for name, each in weights.items()
    }


@pytest.mark.case("E4")
@pytest.mark.parametrize("untied", [False, True], ids=["tied head", "own head"])
def test_three_tokens_more(tmp_path: Path, tally: Tally, untied: bool) -> None:
    plain = tiny_chat_model(tmp_path / "base")
    base = resolve_base(str(with_new_tokens(in_format(plain, torch.float32, untied=untied))))
    merged = merge(base, random_change(base, tmp_path / "change"))
    own = with_weights(base.path, merged.tensors)
    ids = own.tokenizer(TEXT).input_ids
    rows = own.model.get_input_embeddings().weight.shape[0]
    assert {rows - 1, rows - 2, rows - 3} <= set(ids)

    (tmp_path / "safetensors").mkdir()
    write_safetensors(tmp_path / "safetensors", merged.tensors, base.path, base.path, torch.float32)
    again = load_model(tmp_path / "safetensors", dtype=torch.float32)
    assert again.tokenizer(TEXT).input_ids == ids
    assert torch.equal(logits(again, ids), logits(own, ids))
    tally.count("exports compared")

    (tmp_path / "gguf").mkdir()
    path = write_gguf(
        tmp_path / "gguf", "gguf-q8_0", merged.tensors, base.path, own.tokenizer, own.template, name="x", licence=""
    )
    back = load_model(import_gguf(path), dtype=torch.float32)
    assert back.tokenizer(TEXT).input_ids == ids
    reference = with_weights(base.path, as_q8(merged.tensors))
    assert torch.allclose(logits(back, ids), logits(reference, ids), atol=1e-5)
    tokens = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"]
    sizes = {len(tokens.data), rows, len(back.tokenizer), back.model.get_output_embeddings().weight.shape[0]}
    assert len(sizes) == 1
    with LlamaJudge(path, context=128, slots=1) as judge:
        assert judge.tokenize(TEXT) == ids
    tally.count("exports compared")


@pytest.mark.case("E4")
def test_rows_without_tokens_pass_and_tokens_without_rows_are_refused(tmp_path: Path, tally: Tally) -> None:
    padded = in_format(tiny_chat_model(tmp_path / "padded", layers=1), torch.float32)
    weights = load_file(padded / "model.safetensors")
    weights["model.embed_tokens.weight"] = torch.cat([weights["model.embed_tokens.weight"], torch.zeros(13, 64)])
    save_file(weights, padded / "model.safetensors", metadata={"format": "pt"})
    config = read_json(padded / "config.json")
    rows = int(str(config["vocab_size"])) + 13
    write_json(padded / "config.json", {**config, "vocab_size": rows})
    loaded = load_model(padded, dtype=torch.float32)
    (tmp_path / "gguf").mkdir()
    path = write_gguf(
        tmp_path / "gguf",
        "gguf-f16",
        read_weights(padded),
        padded,
        loaded.tokenizer,
        loaded.template,
        name="x",
        licence="",
    )
    back = load_model(import_gguf(path), dtype=torch.float32)
    assert back.model.get_input_embeddings().weight.shape[0] == rows
    assert back.tokenizer(TEXT).input_ids == loaded.tokenizer(TEXT).input_ids
    tally.count("exports compared")

    short = in_format(tiny_chat_model(tmp_path / "short", layers=1), torch.float32)
    tokenizer = Tokenizer.from_file(str(short / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in NEW_TOKENS])
    tokenizer.save(str(short / "tokenizer.json"))
    with pytest.raises(TunesmithError) as caught:
        load_model(short, dtype=torch.float32)
    assert caught.value.code == "models.tokens_without_rows" and caught.value.facts["count"] == 3
    tally.count("exports compared")


WORDS = (
    "Where is my parcel?", "我的包裹在哪里？", "退款 2024 年 12 月", "naïve café e\u0301", "１２３ ④ Ⅷ ½",
    "🙂👩\u200d👩\u200d👧🇨🇳", "  blanks  and\ttabs\n\n\nlines ", "don't we'll I'm", "x" * 40,
    "def f(a):\n    return a ** 2", "العربية", "עברית", "日本語 한국어", "\u200b\u202e|", "<b>&amp;",
    '{"a": [1, null]}', "-1.5e-7 1,000,000", "Ünïcödé – “quotes” …",
)  # fmt: skip


def fifty_chats() -> list[list[Message]]:
    """Chats of one to five turns in both languages, with signs of every kind, and no marks of the template."""
    chats: list[list[Message]] = []
    for number in range(50):
        word, other = WORDS[number % len(WORDS)], WORDS[(number * 7 + 3) % len(WORDS)]
        chat = [Message("user", f"{word} {number}"), Message("assistant", f"{other}。")]
        if number % 3 == 0:
            chat.insert(0, Message("system", f"Answer briefly. 请简短回答。{other}"))
        if number % 4 == 0:
            chat += [Message("user", other), Message("assistant", f"{number} {word}")]
        chats.append(chat)
    return chats


@pytest.mark.case("E5")
def test_ids_of_fifty_chats_agree_in_training_service_and_gguf(tmp_path: Path, tally: Tally) -> None:
    folder = tiny_chat_model(tmp_path / "base", context=2048, layers=1)
    loaded = load_model(folder, dtype=torch.float32)
    task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 4096)
    reader = QuestionReader(loaded, "m", context=2048, max_new_tokens=8)
    (tmp_path / "gguf").mkdir()
    path = write_gguf(
        tmp_path / "gguf",
        "gguf-f16",
        read_weights(folder),
        folder,
        loaded.tokenizer,
        loaded.template,
        name="x",
        licence="",
    )
    imported = ChatTask.of_folder(import_gguf(path), 4096)
    chats = fifty_chats()
    with LlamaJudge(path, context=2048) as judge:
        for number, chat in enumerate(chats):
            turns = [{"role": each.role, "content": each.content} for each in chat]
            body = json.dumps({"model": "m", "messages": turns[:-1]}).encode()
            row = Example(number, "chat", Origin("chats", number), tuple(chat))
            trained = list(task.encode(row).features.token_ids)
            asked = task.prompt(chat[:-1])
            assert trained[: len(asked)] == asked
            assert list(reader.read(parse_chat(body)).prompt) == asked == imported.prompt(chat[:-1])
            assert judge.tokenize(judge.render(turns[:-1], ask=True)) == asked
            assert judge.tokenize(judge.render(turns, ask=False)) == trained
            assert list(imported.encode(row).features.token_ids) == trained
            tally.count("chats compared")


@pytest.mark.case("E6")
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"]
)
def test_the_format_stated_is_the_one_in_the_file(tmp_path: Path, tally: Tally, dtype: torch.dtype) -> None:
    """Through the whole of shipping: config.json, parity.json and the header agree, and a change is said."""
    names = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    base = resolve_base(str(in_format(tiny_chat_model(tmp_path / "base", spread=0.2), dtype)))
    change = random_change(base, tmp_path / "change")
    said: list[Event] = []
    formats: list[ShipFormat] = ["safetensors", "adapter", "gguf-f16", "gguf-q8_0"]
    # a random model is unsure of its tokens: what is asked here is the number format, not the agreement
    limits = ParityLimits(chats=8, top1_safetensors=0.9, top1_gguf_f16=0.5, top1_gguf_q8_0=0.5)
    chats = fifty_chats()[:8]
    shipping = Shipping(tmp_path / "run", base, change, chats, None, limits)
    for artifact in ship_formats(
        shipping, formats if dtype == torch.float32 else formats[:2], Events(None, (said.append,))
    ):
        parity = read_json(artifact.path / "parity.json")
        tally.count("exports compared")
        if artifact.format == "safetensors":
            stated = str(read_json(artifact.path / "config.json")["dtype"])
            assert stored_dtypes(artifact.path / "model.safetensors") == {names[stated]}
            assert parity["dtype"] == stated and parity["base_dtype"] == str(dtype).removeprefix("torch.")
            told = [event for event in said if event.values.get("code") == "ship.other_dtype"]
            assert bool(told) == (stated != parity["base_dtype"])
        elif artifact.format == "adapter":
            assert stored_dtypes(artifact.path / "adapter_model.safetensors") == {"F32"}
            assert parity["dtype"] == "float32" and parity["base_dtype"] == str(dtype).removeprefix("torch.")
        else:
            reader = gguf.GGUFReader(artifact.path / "model.gguf")
            kind = artifact.format.removeprefix("gguf-").upper()
            assert parity["dtype"] == kind.lower()
            file_type = int(str(reader.fields["general.file_type"].contents()))
            assert gguf.LlamaFileType(file_type).name == f"MOSTLY_{kind}"
            for tensor in reader.tensors:
                assert tensor.tensor_type.name == ("F32" if len(tensor.shape) == 1 else kind), tensor.name


@pytest.mark.case("E6")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_what_training_writes_states_its_format(tmp_path: Path, tally: Tally, dtype: torch.dtype) -> None:
    """A full fine-tune keeps float32 masters whatever the model computes in, and its config.json says so."""
    folder = tiny_chat_model(tmp_path / "base", layers=1)
    policy = Policy(load_model(folder, dtype=dtype).model)
    attached = attach(policy, FullSpec(kind="full"), seed=1, base_name="base")
    (tmp_path / "full").mkdir()
    attached.save(tmp_path / "full", {name: each.float() for name, each in attached.delta().items()})
    assert stored_dtypes(tmp_path / "full" / "model.safetensors") == {"F32"}
    assert read_json(tmp_path / "full" / "config.json")["dtype"] == "float32"
    tally.count("exports compared")


@pytest.mark.case("E6")
def test_an_import_states_its_format(tmp_path: Path, tally: Tally) -> None:
    folder = tiny_chat_model(tmp_path / "base", layers=1)
    tokenizer = load_tokenizer(folder)
    for kind in ("gguf-f16", "gguf-q8_0"):
        (tmp_path / kind).mkdir()
        path = write_gguf(
            tmp_path / kind, kind, read_weights(folder), folder, tokenizer, template_of(tokenizer), name="x", licence=""
        )
        imported = import_gguf(path)
        assert stored_dtypes(imported / "model.safetensors") == {"F32"}
        assert read_json(imported / "config.json")["dtype"] == "float32"
        assert read_json(imported / "origin.json")["quantization"] == kind.removeprefix("gguf-").upper()
        tally.count("exports compared")
