"""The table of sites against the models themselves, built without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from tunesmith.core.errors import TunesmithError
from tunesmith.models import sites
from tunesmith.models.load import load_model
from tunesmith.models.sites import check_names, find_sites, linear_names
from tunesmith.models.tiny import tiny_chat_model


def build(architecture: str) -> PreTrainedModel:
    """A small model of an architecture on the meta device: modules and names, no memory."""
    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(architecture, **settings)
    kind = AutoModelForSequenceClassification if architecture in sites.ENCODERS else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    assert isinstance(model, PreTrainedModel)
    return model


@pytest.mark.parametrize("architecture", sorted(sites._ROLES))
def test_the_table_names_every_linear_layer_of_the_blocks_and_no_other(architecture: str) -> None:
    model = build(architecture)
    found = find_sites(model)
    assert found.architecture == architecture
    blocks = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (".layers." in name or ".layer." in name)
    }
    by_role = {role: reached(linear_names(model, role), blocks) for role in ("attention", "mlp", "all-linear")}
    assert by_role["all-linear"] == blocks
    assert by_role["attention"] == {name for name in blocks if ".self_attn." in name or ".attention." in name}
    assert by_role["mlp"] == blocks - by_role["attention"]
    check_names(model, found.linears)


def reached(ends: list[str], names: set[str]) -> set[str]:
    """The layers that PEFT puts additions on when its list of targets has these ends."""
    return {name for name in names if any(name.endswith(f".{end}") for end in ends)}


def test_an_unknown_architecture_and_an_unknown_name_are_refused_with_what_is_known() -> None:
    model = build("llama")
    with pytest.raises(TunesmithError) as error:
        check_names(model, ["q_proj", "query_key_value"])
    assert error.value.code == "packed.no_such_module" and error.value.facts["name"] == "query_key_value"
    assert "down_proj" in str(error.value.facts["known"])
    with pytest.raises(TunesmithError, match="no_such_module"):
        check_names(model, ["input_layernorm"])
    model.config.model_type = "gpt_neox"
    with pytest.raises(TunesmithError) as error:
        find_sites(model)
    assert error.value.code == "packed.unknown_architecture" and "qwen3" in str(error.value.facts["known"])


def test_the_tiny_model_has_its_row(tmp_path: Path) -> None:
    model = load_model(tiny_chat_model(tmp_path / "tiny"), dtype=torch.float32).model
    assert find_sites(model).linears == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
