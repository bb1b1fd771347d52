"""QLoRA: what trains beside a base in codes is what would train beside the dense weights that they stand for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from two_ranks import TwoRanks

from tunesmith.adapt.base import frozen_digest
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.messages import say
from tunesmith.models.load import load_model, resolve_base
from tunesmith.models.quantized import Form, QuantizedLinear, dequantized_weights, quantized_layers
from tunesmith.models.sites import linear_names
from tunesmith.models.weights import read_weights
from tunesmith.ship.evaluated import load_evaluated
from tunesmith.ship.merge import merge, merge_into
from tunesmith.ship.merge_base import weights_beside
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import Job, fit

FORMS: tuple[Form, ...] = ("nf4", "int8")
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dropout": {"lora_dropout": 0.3},
    "pissa": {"init_lora_weights": "pissa", "rank": 4},
    "olora": {"init_lora_weights": "olora", "rank": 4},
    "dora from pissa": {"init_lora_weights": "pissa", "use_dora": True, "use_rslora": True, "rank": 4},
    "attention alone": {"target_modules": "attention"},
    "norms": {"kind": "subset", "parts": ["norm"]},
    "prompt": {"kind": "prompt", "num_virtual_tokens": 4},
    "prefix": {"kind": "prefix", "num_virtual_tokens": 4},
    "bottleneck": {"kind": "bottleneck", "places": "houlsby"},
    "lora experts": {"kind": "lora-experts"},
    "bottleneck beside": {"kind": "bottleneck", "places": "parallel"},
}


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    found: Form = request.param
    return found


@pytest.fixture(scope="module")
def dense_base(base: Path, form: Form, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose own weights are those that the quantised one computes with."""
    folder = tmp_path_factory.mktemp("dense") / "base"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("manifest.json", "model.safetensors"))
    weights = {**read_weights(base), **weights_beside(resolve_base(str(base)), form, torch.float32)}
    save_file(
        {name: each.contiguous() for name, each in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def ends_of(job: Job, seen: list[Event]) -> tuple[list[float], dict[str, Tensor]]:
    fit(job)
    losses = [float(str(event.values["loss"])) for event in seen if event.kind in ("step", "validation")]
    return losses, {name: each.detach().clone() for name, each in job.optimizer.masters.items()}


TAKING = ("pissa", "olora", "dora from pissa")
"""Beginnings that change the codes."""


@pytest.mark.parametrize("variant", [each for each in VARIANTS if each not in TAKING])
def test_it_trains_as_beside_the_dense_weights(
    base: Path, dense_base: Path, form: Form, tmp_path: Path, variant: str
) -> None:
    found = []
    for folder, quantize in ((base, form), (dense_base, "none")):
        seen: list[Event] = []
        listener = Events(listeners=(seen.append,))
        job = make_job(
            folder, tmp_path / quantize, local(), adapt=VARIANTS[variant], quantize=quantize, emitter=listener
        )
        found.append((*ends_of(job, seen), [e.values for e in seen if e.kind == "parameters"]))
    (losses, masters, counts), (plain_losses, plain_masters, plain_counts) = found
    assert losses == pytest.approx(plain_losses, rel=1e-5) and losses[0] != losses[-1]
    assert counts == plain_counts, "numbers in codes count as the numbers that they are"
    assert masters.keys() == plain_masters.keys()
    for name, master in masters.items():
        torch.testing.assert_close(master, plain_masters[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "layout",
    [{"gradient_checkpointing": True}, {"blocks": "plain"}, {"batch_size": 2, "gradient_accumulation_steps": 4}],
    ids=lambda each: next(iter(each)),
)
def test_the_layout_of_a_step_does_not_change_it(
    base: Path, form: Form, tmp_path: Path, layout: dict[str, object]
) -> None:
    settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 8}
    ends = []
    for name, extra in (("whole", {}), ("other", layout)):
        job = make_job(
            base, tmp_path / name, local(), settings={**settings, **extra}, dtype=torch.float64, quantize=form
        )
        ends.append(ends_of(job, [])[1])
    for name, whole in ends[0].items():
        # norms of the plain blocks are float32 even in a float64 model
        limit = 1e-5 if "blocks" in layout else 1e-9
        assert (ends[1][name] - whole).norm() <= limit * whole.norm(), name


def test_the_base_s_bytes_are_watched_and_stay(base: Path, form: Form, tmp_path: Path) -> None:
    seen: list[Event] = []
    job = make_job(base, tmp_path / "fit", local(), quantize=form, emitter=Events(listeners=(seen.append,)))
    before = frozen_digest(job.policy, job.optimizer.masters)
    adapters = {name: each.clone() for name, each in job.optimizer.masters.items()}
    with job.policy.answering() as model, torch.no_grad():
        model(input_ids=torch.arange(3, 20)[None])
    assert frozen_digest(job.policy, job.optimizer.masters) == before, "after an evaluation pass"
    fit(job)
    assert frozen_digest(job.policy, job.optimizer.masters) == before, "after a training with its validations"
    assert all(not torch.equal(each, adapters[name]) for name, each in job.optimizer.masters.items())
    layer = next(iter(quantized_layers(job.policy).values()))
    for name in (each for each, _ in layer.named_buffers() if each != "wanted"):
        buffer = layer.get_buffer(name).view(torch.uint8).flatten()
        buffer[0] ^= 1
        assert frozen_digest(job.policy, job.optimizer.masters) != before, name
        buffer[0] ^= 1
    assert frozen_digest(job.policy, job.optimizer.masters) == before


@pytest.mark.parametrize("kind", ["plain", "dora"])
def test_broken_off_and_gone_on(base: Path, form: Form, tmp_path: Path, kind: str) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            fit(make_job(base, tmp_path / name, local(), adapt=VARIANTS[kind], quantize=form), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_beginning_is_that_of_the_base_s_own_weights_and_the_rest_alone_is_quantised(
    base: Path, dense_base: Path, form: Form, tmp_path: Path, start: str
) -> None:
    """PEFT over the base gives A, B and the rest; there is one error, about that of the plain codes."""
    seen: list[Event] = []
    emitter = Events(listeners=(seen.append,))
    job = make_job(base, tmp_path / "fit", local(), adapt=VARIANTS[start], quantize=form, emitter=emitter)
    of_base, in_codes = read_weights(base), read_weights(dense_base)
    plain = load_model(base, dtype=torch.float32).model
    names = linear_names(plain, "all-linear")
    torch.manual_seed(0)
    wanted = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules=names, init_lora_weights=start))
    found = {name: module for name, module in job.policy.named_modules() if isinstance(module, LoraLayer)}
    changed = whole = 0.0
    assert found
    for name, layer in found.items():
        peft_s = wanted.base_model.get_submodule(name)
        for side in ("lora_A", "lora_B"):
            own, other = (getattr(each, side)["default"].weight for each in (layer, peft_s))
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
        rest_OI = peft_s.base_layer.weight.detach()
        again = QuantizedLinear(torch.nn.Linear(*reversed(rest_OI.shape), bias=False), form)
        again._hold(rest_OI)
        # where A and B differ in their last digit, a number on the edge of two codes may take the other one
        assert (layer.base_layer.weight == again.weight).double().mean() > 0.99
        changed += float((layer.base_layer.weight - rest_OI).square().sum())
        high_OR, low_RI = (getattr(peft_s, side)["default"].weight.detach() for side in ("lora_B", "lora_A"))
        whole += float((rest_OI + 2 * high_OR @ low_RI).square().sum())
    (told,) = [event.values for event in seen if event.values.get("code") == "train.requantized"]
    percent = 100 * (changed / whole) ** 0.5
    assert told["percent"] == pytest.approx(percent, rel=0.01, abs=0.006)
    targets = [f"{name.removeprefix('model.')}.weight" for name in found]
    plainly = [(in_codes[name].float() - of_base[name].float()).square().sum() for name in targets]
    whole_own = sum(float(of_base[name].float().square().sum()) for name in targets)
    of_plain_codes = 100 * (float(sum(plainly)) / whole_own) ** 0.5
    # only PiSSA takes out what is largest, so that codes of the rest are finer
    assert 0 < percent < of_plain_codes * (1.0 if start == "pissa" else 1.02)
    assert say("train.requantized", quantize=form, percent=percent)


@pytest.mark.parametrize("variant", ["plain", "rslora", "dora", *TAKING])
def test_merged_with_the_weights_beside_it_it_is_the_trained_model(
    base: Path, form: Form, tmp_path: Path, variant: str
) -> None:
    """PEFT over the dense weights, our own yardstick and the merge all say what was trained."""
    ids = torch.arange(3, 40)[None]

    def logits(model: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(input_ids=ids, use_cache=False).logits
        return found

    job = make_job(base, tmp_path / "fit", local(), adapt=VARIANTS[variant], quantize=form)
    fit(job)
    with job.policy.answering() as model:
        trained = logits(model)
    change, folder = checkpoint_paths(tmp_path / "fit")[-1], resolve_base(str(base))
    began = change if variant in TAKING else None
    instead = weights_beside(folder, form, torch.float32, start=began)
    plain = load_model(base, dtype=torch.float32).model
    for name, weight in instead.items():
        plain.get_parameter(name).data.copy_(weight)
    read = PeftModel.from_pretrained(plain, change).eval()
    evaluated = load_evaluated(folder, change, instead)
    merged = merge_into(load_model(base, dtype=torch.float32), folder, change, instead).model
    for each in (read, evaluated, merged):
        torch.testing.assert_close(logits(each), trained, rtol=0, atol=2e-4)
    elsewhere = logits(merge_into(load_model(base, dtype=torch.float32), folder, change).model)
    assert (elsewhere - trained).abs().max() > 1e-3, "merged with the original it is another model"
    assert merge(folder, change, instead).changed == tuple(sorted(instead, key=list(read_weights(base)).index))


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"kind": "full"}, "compat.quantized_weights"),
    ({"kind": "subset", "first_layer": -1}, "compat.quantized_weights"),
    ({"kind": "subset", "parts": ["attention"]}, "compat.quantized_weights"),
    ({"kind": "subset", "parts": ["norm", "mlp"]}, "compat.quantized_weights"),
    ({"kind": "subset", "parameters": ["*.q_proj.weight"]}, "compat.quantized_weights"),
]


@pytest.mark.parametrize(("adapt", "code"), REFUSED)
def test_what_would_move_codes_is_refused(base: Path, tmp_path: Path, adapt: dict[str, object], code: str) -> None:
    with pytest.raises(TunesmithError) as error:
        make_job(base, tmp_path / "fit", local(), adapt=adapt, quantize="nf4")
    assert error.value.code == code


def test_biases_beside_codes_move(base: Path, tmp_path: Path) -> None:
    """BitFit on a base in codes: the gradient of a bias comes through the layer's own backward pass."""
    loaded = load_model(base, dtype=torch.float32, quantize="int8").model
    layer = next(iter(quantized_layers(loaded).values()))
    plain = torch.nn.Linear(layer.in_features, layer.out_features)
    plain.weight.data.copy_(layer.weight)
    packed = QuantizedLinear(plain, "int8")
    given = torch.randn(3, layer.in_features)
    packed(given).sum().backward()
    assert packed.bias.grad is not None and torch.equal(packed.bias.grad, torch.full_like(packed.bias, 3.0))


RANK_PROGRAM = """
import sys, torch
from pathlib import Path
from fits import make_job
from tunesmith.adapt.base import frozen_digest
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 4}
base, folder, exact = Path(sys.argv[1]), Path(sys.argv[2]), torch.float64
job = make_job(base, folder, runtime, settings=settings, dtype=exact, rows=21, quantize="nf4")
before = frozen_digest(job.policy, job.optimizer.masters)
fit(job)
assert frozen_digest(job.policy, job.optimizer.masters) == before
runtime.close()
"""


def test_two_gloo_processes_equal_one(base: Path, tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 8}
    alone = make_job(base, tmp_path / "alone", local(), settings=settings, dtype=torch.float64, rows=21, quantize="nf4")
    fit(alone)
    options = ("-W", "error:`broadcast_buffers`")
    assert TwoRanks(RANK_PROGRAM, str(base), str(tmp_path / "pair"), options=options).ended() == [0, 0]
    (checkpoint,) = (tmp_path / "pair").glob("checkpoint-*")
    for name, master in load_file(checkpoint / "masters.safetensors").items():
        assert (master - alone.optimizer.masters[name]).norm() <= 1e-9 * master.norm(), name


def test_the_same_weights_have_the_same_codes(base: Path, form: Form) -> None:
    first, second = (dequantized_weights(load_model(base, dtype=torch.float32, quantize=form).model) for _ in range(2))
    assert all(torch.equal(each, second[name]) for name, each in first.items())
