"""A task head beside a base in codes: what trains is what would train beside the dense weights that they stand for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from class_fits import head_of, make_class_job
from class_rows import text_rows, token_rows, write_rows
from fits import local

from tunesmith import lifecycle, proof
from tunesmith.adapt.base import frozen_digest
from tunesmith.core.events import Event
from tunesmith.models.load import resolve_base
from tunesmith.models.quantized import Form, QuantizedLinear
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.ship.merge_base import weights_beside
from tunesmith.train.loop import fit

CASES = [
    ("encoder", "text_class", "nf4", {"kind": "lora", "rank": 4}),
    ("encoder", "token_class", "int8", {"kind": "prefix", "num_virtual_tokens": 4}),
    ("decoder", "several", "int8", {"kind": "lora", "rank": 4, "use_dora": True}),
    ("decoder", "token_class", "nf4", {"kind": "subset", "parts": ["norm"]}),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    return {
        "encoder": tiny_encoder(folder / "encoder", spread=0.1),
        "decoder": tiny_chat_model(folder / "decoder", spread=0.1),
    }


@pytest.mark.parametrize(("body", "kind", "form", "adapt"), CASES)
def test_it_trains_as_beside_the_dense_weights(
    bases: dict[str, Path], body: str, kind: str, form: Form, adapt: dict[str, object], tmp_path: Path
) -> None:
    ends = []
    for name, quantize in (("codes", form), ("dense", "none")):
        job = make_class_job(
            bases[body], tmp_path / name, local(), kind, adapt=adapt, quantize=quantize, dtype=torch.float64
        )  # type: ignore[arg-type]
        if quantize == "none":
            beside = weights_beside(resolve_base(str(bases[body])), form, torch.float64, head_of(kind))
            own = {each.replace(".base_layer", ""): weight for each, weight in job.policy.model.named_parameters()}
            with torch.no_grad():
                for each, weight in beside.items():
                    own[each].copy_(weight)
        else:
            held = [name for name, each in job.policy.named_modules() if isinstance(each, QuantizedLinear)]
            assert held and not any(part in name for name in held for part in ("classifier", "score", "pooler"))
        before = frozen_digest(job.policy, job.optimizer.masters)
        fit(job)
        assert frozen_digest(job.policy, job.optimizer.masters) == before
        ends.append({each: tensor.clone() for each, tensor in job.optimizer.masters.items()})
    assert ends[0].keys() == ends[1].keys() and any("classifier" in each or "score" in each for each in ends[0])
    if not adapt.get("use_dora"):  # whose lengths are those of the weights that it met
        for name, each in ends[0].items():
            torch.testing.assert_close(each, ends[1][name], rtol=1e-7, atol=1e-9, msg=name)


RECIPE = """
name: classes
model: {{base: {base}, dtype: float32, quantize: {form}}}
data:
  task: {task}
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: classify
    adapt: {{kind: lora, rank: 4, init_lora_weights: {start}}}
    train: {{epochs: 4, learning_rate: 2e-2, batch_size: 8, max_length: 96}}
runtime: {{threads: 1, device: cpu}}
"""


@pytest.mark.parametrize(
    ("body", "task", "form", "start"),
    [("encoder", "text_class", "nf4", "default"), ("decoder", "token_class", "int8", "pissa")],
)
def test_from_rows_to_an_artefact_on_the_better_base(
    bases: dict[str, Path], body: str, task: str, form: str, start: str, tmp_path: Path
) -> None:
    rows = text_rows if task == "text_class" else token_rows
    for name, count in (("train", 48), ("validation", 16), ("test", 20)):
        write_rows(tmp_path / f"{name}.jsonl", rows(count, name))  # type: ignore[arg-type]
    text = RECIPE.format(base=bases[body], form=form, task=task, start=start)
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    seen: list[Event] = []
    work = lifecycle.start(tmp_path / "recipe.yaml", (), tmp_path / "runs", (seen.append,))
    lifecycle.run_to_release(work)
    losses = [float(str(event.values["loss"])) for event in seen if event.kind == "step"]
    assert sum(losses[-4:]) < sum(losses[:4]), "it learns"
    (chosen,) = [event.values for event in seen if event.kind == "merge_base"]
    assert min(chosen["loss_original"], chosen["loss_dequantized"]) < losses[0]  # type: ignore[type-var]
    parity = json.loads((work.path / "ship" / "safetensors" / "parity.json").read_text("utf-8"))
    assert parity["ok"] is True and parity["merge_base"]["chosen"] == chosen["chosen"]
    assert form in (work.path / "ship" / "safetensors" / "README.md").read_text("utf-8")
    assert proof.verify(work) is not None
