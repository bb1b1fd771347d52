"""Learned beginnings: packed batches have PEFT's numbers of single rows, forward and backward, and its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from peft import (
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptLearningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from two_ranks import TwoRanks

from tunesmith.adapt.attach import attach
from tunesmith.adapt.beginnings import BeginningAttached
from tunesmith.core.errors import TunesmithError
from tunesmith.models.beginning import beginning_of
from tunesmith.models.blocks import use_blocks
from tunesmith.models.decode import PackedRows
from tunesmith.models.generate import Decoder, generate
from tunesmith.models.load import load_model
from tunesmith.models.packed import Features, pack
from tunesmith.models.padded import PaddedRows
from tunesmith.models.policy import Policy
from tunesmith.models.sampling import GenerateSettings
from tunesmith.plan.sizes import size_from_config, trained_parameters
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.adapt import AdaptSpec
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

pytestmark = pytest.mark.filterwarnings(
    "ignore:Position ids are not supported", "ignore:The PEFT config's `base_model_name_or_path`"
)
"""PEFT counts the positions itself, and tells so at every step."""

P = 5
KINDS: dict[str, dict[str, object]] = {
    "prompt": {"kind": "prompt"},
    "prompt of a text": {"kind": "prompt", "prompt_tuning_init": "text", "prompt_tuning_init_text": "Sort it"},
    "random prompt": {"kind": "prompt", "prompt_tuning_init": "random"},
    "p-tuning": {"kind": "p-tuning", "encoder_hidden_size": 24},
    "p-tuning by lstm": {"kind": "p-tuning", "encoder_reparameterization_type": "lstm", "encoder_num_layers": 1},
    "prefix": {"kind": "prefix", "prefix_projection": True, "encoder_hidden_size": 24},
    "p-tuning v2": {"kind": "prefix"},
}
FORMS = ["prompt", "p-tuning", "p-tuning by lstm", "prefix", "p-tuning v2"]


def spec_of(kind: str, **more: object) -> AdaptSpec:
    stage = {"name": "one", "adapt": {"num_virtual_tokens": P, **KINDS[kind], **more}}
    return StageSpec.model_validate(stage).adapt


SHARED = tuple(range(20, 50))


def row(number: int, tokens: tuple[int, ...], learned: int) -> Features:
    return Features(number, tokens, (0.0,) * (len(tokens) - learned) + (1.0,) * learned)


ROWS = [
    row(0, (*SHARED, 60, 61, 62, 63, 64), 3),
    row(1, (*SHARED, 70, 71, 72), 2),
    row(2, (9, 8, 7, 6, 5, 4, 3), 4),
    row(3, tuple(range(100, 300)), 60),
]
"""The first two share a passage, so that rows continue it, and it continues the beginning."""


def qwen() -> PreTrainedModel:
    """A head size that is not width / heads, and norms of heads."""
    config = Qwen3Config(
        vocab_size=384, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.1, pad_token_id=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    return Qwen3ForCausalLM(config).to(torch.float64).eval()


def llama(base: Path) -> PreTrainedModel:
    return load_model(base, dtype=torch.float64).model


def by_peft(model: PreTrainedModel, stated: Mapping[str, object], encoder: Mapping[str, Tensor]) -> PeftModel:
    """PEFT's model in training form with these weights, from the configuration that we write."""
    kinds = {"PREFIX_TUNING": PrefixTuningConfig, "PROMPT_TUNING": PromptTuningConfig, "P_TUNING": PromptEncoderConfig}
    # First values come from here, not from a text.
    values = {**stated, "inference_mode": False, "prompt_tuning_init": "RANDOM", "base_model_name_or_path": None}
    kind = kinds[str(values.pop("peft_type"))]
    known = {name: value for name, value in values.items() if name in kind.__dataclass_fields__}
    config: PromptLearningConfig = kind(**known)
    wrapped = get_peft_model(model, config)
    wrapped.prompt_encoder["default"].to(model.dtype)
    own = wrapped.prompt_encoder["default"]
    own.load_state_dict({name if name != "weight" else "embedding.weight": each for name, each in encoder.items()})
    return wrapped


def rows_by_peft(wrapped: PeftModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of single rows in the order of the packed batch, and gradients of what trains."""
    losses = []
    for item in ROWS:
        ids, learned = torch.tensor([item.token_ids]), int(sum(item.weights))
        logits = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -learned - 1 : -1]
        losses.append(cross_entropy(logits, ids[0, -learned:], reduction="none"))
    found = torch.cat(losses)
    found.sum().backward()
    encoder = wrapped.prompt_encoder["default"]
    return found.detach(), {name: each.grad for name, each in encoder.named_parameters()}


@pytest.mark.parametrize("blocks", ["fast", "plain", "fast, computed again"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", FORMS)
def test_packed_rows_have_the_losses_and_gradients_of_single_rows_in_peft(
    base: Path, tmp_path: Path, kind: str, architecture: str, blocks: str
) -> None:
    policy = Policy(llama(base) if architecture == "llama" else qwen())
    attached = attach(policy, spec_of(kind), seed=3, base_name="base")
    use_blocks(policy.model, "plain" if blocks == "plain" else "fast")
    if blocks == "fast, computed again":
        policy.train()
        policy.model.activation_checkpointing_enable({"use_reentrant": False})
    batch = pack(ROWS)
    assert batch.parent.tolist() == [-1, 0, 0, -1, -1]
    losses_K = policy(batch)
    losses_K.sum().backward()
    attached.save(tmp_path, attached.delta())
    beginning = beginning_of(policy.model)
    assert beginning is not None
    moving = dict(beginning.encoder.named_parameters())
    stated = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    untouched = llama(base) if architecture == "llama" else qwen()
    wrapped = by_peft(untouched, stated, {name: each.detach() for name, each in moving.items()})
    wanted_K, gradients = rows_by_peft(wrapped)
    # transformers takes its norms in float32, also in a float64 model
    torch.testing.assert_close(losses_K.detach(), wanted_K, rtol=1e-6, atol=1e-6)
    for name, parameter in moving.items():
        wanted = gradients[name if name != "weight" else "embedding.weight"]
        assert parameter.grad is not None
        assert (parameter.grad - wanted).norm() < 1e-6 * wanted.norm(), name
    frozen = [name for name, each in policy.named_parameters() if each.grad is not None]
    assert set(frozen) == attached.trainable


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_what_was_trained_and_nothing_else_moved(base: Path, tmp_path: Path, kind: str) -> None:
    job = make_job(base, tmp_path / "fit", local(), adapt={"num_virtual_tokens": P, **KINDS[kind]})
    before = {name: each.detach().clone() for name, each in job.policy.named_parameters()}
    fit(job)
    moved = {name for name, each in job.policy.named_parameters() if not torch.equal(each, before[name])}
    assert moved == set(job.optimizer.masters) == {name for name in before if name.startswith("model.beginning.")}
    size = size_from_config(json.loads((base / "config.json").read_text("utf-8")))
    assert trained_parameters(size, spec_of(kind)) == sum(before[name].numel() for name in moved)
    change = checkpoint_paths(tmp_path / "fit")[-1]
    assert list(load_file(change / "adapter_model.safetensors")) == ["prompt_embeddings"]
    read = PeftModel.from_pretrained(load_model(base, dtype=torch.float32).model, change).eval()
    policy = job.policy
    assert isinstance(policy, Policy)
    with torch.no_grad():
        found_KV = policy.logits(pack(ROWS))
        wanted = [
            read(input_ids=torch.tensor([item.token_ids])).logits[0, -int(sum(item.weights)) - 1 : -1] for item in ROWS
        ]
    torch.testing.assert_close(found_KV, torch.cat(wanted), rtol=1e-4, atol=1e-4)


PROMPTS = [[5, 6, 7, 8], list(range(40, 70)), [*range(40, 68), 9, 10, 11, 12], [33]]


@pytest.mark.parametrize("rows", [PackedRows, PaddedRows])
@pytest.mark.parametrize("kind", FORMS)
def test_answers_are_those_of_peft(
    base: Path, tmp_path: Path, kind: str, rows: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows is PaddedRows:
        monkeypatch.setattr("tunesmith.models.generate.packed_rows", lambda model: None)
    job = make_job(base, tmp_path / "fit", local(), adapt={"num_virtual_tokens": P, **KINDS[kind]})
    fit(job)
    policy, loaded = job.policy, load_model(base, dtype=torch.float32)
    assert isinstance(policy, Policy)
    read = PeftModel.from_pretrained(loaded.model, checkpoint_paths(tmp_path / "fit")[-1]).eval()
    with policy.answering() as model:
        assert isinstance(Decoder(model, loaded.tokenizer)._rows, rows)
        for prompts in (PROMPTS, PROMPTS[1:3], PROMPTS[:1]):  # with nothing in common, with a beginning, alone
            found = generate(model, loaded.tokenizer, prompts, GenerateSettings(max_new_tokens=12), batch_size=3)
            for prompt, answer in zip(prompts, found, strict=True):
                ids = torch.tensor([prompt])
                whole = read.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                    eos_token_id=None, pad_token_id=2,
                )  # fmt: skip
                assert list(answer.token_ids) == whole[0, len(prompt) :].tolist()


# ------------------------------------------------------------------------------------------ in the loop


LAYOUTS = {
    "2 x 4 accumulated": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "one row at a time": {"batch_size": 8, "packing": False},
    "activations computed again": {"batch_size": 8, "gradient_checkpointing": True},
    "as memory allows": {"batch_size": "auto", "gradient_accumulation_steps": 1},
}
ONE_STEP = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 8}
EXACT = ["prompt", "p-tuning by lstm", "prefix"]


def difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The largest relative distance of two tensors of the same name."""
    assert left.keys() == right.keys()
    with torch.no_grad():
        return max(float((left[name] - right[name]).norm() / right[name].norm()) for name in left)


@pytest.mark.parametrize("kind", EXACT)
def test_the_layout_of_a_step_does_not_change_it(base: Path, tmp_path: Path, kind: str) -> None:
    adapt = {"num_virtual_tokens": P, **KINDS[kind]}
    jobs = {}
    for name, layout in {"whole": {}, **LAYOUTS}.items():
        settings = {**ONE_STEP, **layout}
        jobs[name] = make_job(
            base, tmp_path / name, local(), adapt=adapt, settings=settings, dtype=torch.float64, rows=20
        )
        fit(jobs[name])
    whole = jobs["whole"].optimizer.masters
    assert all(difference(job.optimizer.masters, whole) < 1e-9 for job in jobs.values())


RANK_PROGRAM = """
import json, sys, torch
from pathlib import Path
from fits import make_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
for name, adapt in json.loads(sys.argv[3]).items():
    settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 4}
    folder = Path(sys.argv[2]) / name
    fit(make_job(Path(sys.argv[1]), folder, runtime, adapt=adapt, settings=settings, dtype=torch.float64, rows=21))
runtime.close()
"""


def test_two_processes_equal_one(base: Path, tmp_path: Path) -> None:
    adapts = {kind: {"num_virtual_tokens": P, **KINDS[kind]} for kind in EXACT}
    assert TwoRanks(RANK_PROGRAM, str(base), str(tmp_path / "pair"), json.dumps(adapts)).ended() == [0, 0]
    for kind, adapt in adapts.items():
        job = make_job(base, tmp_path / kind, local(), adapt=adapt, settings=ONE_STEP, dtype=torch.float64, rows=21)
        fit(job)
        (checkpoint,) = (tmp_path / "pair" / kind).glob("checkpoint-*")
        assert difference(load_file(checkpoint / "masters.safetensors"), job.optimizer.masters) < 1e-9


def test_the_beginning_takes_its_places_from_the_context(base: Path) -> None:
    policy = Policy(load_model(base, dtype=torch.float32).model)
    tokenizer = load_model(base, dtype=torch.float32).tokenizer
    attach(policy, spec_of("prompt"), seed=1, base_name="base")
    with policy.answering() as model:
        decoder = Decoder(model, tokenizer)
    assert decoder.context == 512 - P
    with pytest.raises(TunesmithError, match="prompt_too_long"):
        decoder.add([1] * (512 - P), GenerateSettings(max_new_tokens=1))


def test_rows_that_the_beginning_pushes_out_of_the_context_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TunesmithError) as error:
        make_job(base, tmp_path / "fit", local(), adapt={"kind": "prefix", "num_virtual_tokens": 500})
    assert error.value.code == "train.beyond_context" and error.value.facts["most"] == 12


def test_virtual_tokens_begin_as_they_are_asked_to(base: Path) -> None:
    found: dict[str, Tensor] = {}
    for kind in ("prompt", "random prompt", "prompt of a text"):
        loaded = load_model(base, dtype=torch.float32)
        policy = Policy(loaded.model)
        attached = attach(policy, spec_of(kind), seed=7, base_name="base", encode=lambda text: [11, 12, 13])
        assert isinstance(attached, BeginningAttached)
        (found[kind],) = attached.delta().values()
        words = loaded.model.get_input_embeddings().weight.detach()
    assert torch.equal(found["prompt of a text"], words[[11, 12, 13, 11, 12]])
    assert all(any(torch.equal(one, word) for word in words) for one in found["prompt"])
    assert 0.5 < float(found["random prompt"].std() / words.std()) < 2
    policy = Policy(load_model(base, dtype=torch.float32).model)
    with pytest.raises(TunesmithError, match="beginning_without_tokens"):
        attach(policy, spec_of("prompt of a text"), seed=7, base_name="base", encode=lambda text: [])


def test_a_bfloat16_model_trains_a_float32_beginning(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path / "fit", local(), adapt=KINDS["p-tuning v2"], dtype=torch.bfloat16)
    first = float(job.validate()["loss"])
    fit(job)
    assert {each.dtype for each in job.optimizer.masters.values()} == {torch.float32}
    assert float(job.validate()["loss"]) < first


def test_layers_that_look_back_over_a_window_are_refused() -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    model.config.sliding_window = 8
    with pytest.raises(TunesmithError, match="beginning_window"):
        attach(Policy(model), spec_of("prompt"), seed=1, base_name="base")
