"""A fit that is broken off and goes on ends with the bytes of the unbroken one, whatever moves."""

from __future__ import annotations

from pathlib import Path

import pytest
from fits import local, make_job

from tunesmith.core.files import folder_hashes
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

KINDS: dict[str, dict[str, object]] = {
    "last block": {"kind": "subset", "first_layer": -1},
    "norms": {"kind": "subset", "parts": ["norm"]},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "dora from pissa": {"use_dora": True, "init_lora_weights": "pissa"},
    "bottleneck": {"kind": "bottleneck", "size": 8, "places": "parallel"},
    "olora": {"init_lora_weights": "olora"},
    "prompt": {"kind": "prompt"},
    "p-tuning": {"kind": "p-tuning", "encoder_reparameterization_type": "lstm", "encoder_hidden_size": 8},
    "prefix": {"kind": "prefix", "prefix_projection": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_broken_off_and_gone_on(base: Path, tmp_path: Path, kind: str) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            fit(make_job(base, tmp_path / name, local(), adapt=KINDS[kind]), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})  # it holds seconds
    assert ends[0] == ends[1]
    assert any(file.endswith("masters.safetensors") for file in ends[0])
