"""The guards of `code_rules` find what they are for: each rule is shown lines that it must not let pass."""

from __future__ import annotations

from pathlib import Path

import code_rules
import pytest
from code_rules import SourceFile, read_package

UNSAFE = [
    "import pickle\n",
    "import _pickle\n",
    "import marshal\n",
    "import shelve\n",
    "import joblib\n",
    "import dill as p\n",
    "from cloudpickle import loads\n",
    "def f():\n    from pickle import load\n",
    "import torch\ntorch.load('x', weights_only=True)\n",
    "import torch\ntorch.save({}, 'x')\n",
    "from torch import load\nload('x')\n",
    "import torch\ntorch.jit.load('x')\n",
    "import torch\ntorch.hub.load('x', 'y')\n",
    "import numpy as np\nnp.load('x.npy')\n",
    "import numpy as np\nnp.save('x', [])\n",
    "eval('1')\n",
    "exec('1')\n",
    "compile('1', 'x', 'eval')\n",
    "__import__('os')\n",
    "import builtins\nbuiltins.eval('1')\n",
    "import os\nos.system('ls')\n",
    "import os\nos.popen('ls')\n",
    "import os\nos.execv('/bin/sh', [])\n",
    "import subprocess\nsubprocess.run('ls', shell=True)\n",
    "import subprocess\nsubprocess.Popen('ls', shell=flag)\n",
    "import subprocess\nsubprocess.getoutput('ls')\n",
    "import runpy\nrunpy.run_path('x.py')\n",
    "import yaml\nyaml.load('x')\n",
    "import yaml\nyaml.load('x', Loader=yaml.Loader)\n",
    "import yaml\nyaml.unsafe_load('x')\n",
    "import yaml\nyaml.full_load_all('x')\n",
    "load(trust_remote_code=True)\n",
    "load(trust_remote_code=flag)\n",
    "options = {'trust_remote_code': True}\n",
    "load(weights_only=False)\n",
    "load(allow_pickle=True)\n",
    "import shutil\nshutil.unpack_archive('x')\n",
    "import tarfile\ntarfile.open('x')\n",
]
ELSEWHERE = [
    "from transformers import AutoModel\nAutoModel.from_pretrained('x')\n",
    "from transformers import AutoModel\nread = AutoModel.from_pretrained\n",
    "from transformers import AutoModel\ngetattr(AutoModel, 'from_pretrained')('x')\n",
    "from huggingface_hub import snapshot_download\n",
    "from safetensors import safe_open\n",
    "from safetensors.torch import load_file\n",
    "import safetensors.torch\nsafetensors.torch.load_file('x')\n",
    "tokenizer.apply_chat_template([])\n",
    "from jinja2 import Environment\n",
    "from jinja2.sandbox import SandboxedEnvironment\n",
    "import gguf\ngguf.GGUFReader('x')\n",
    "from peft import LoraConfig\nLoraConfig.from_peft_type(peft_type='LORA')\n",
    "from importlib import import_module\n",
    "import importlib\nimportlib.import_module(name)\n",
]
REACHING_OUT = [
    "import requests\n",
    "import urllib.request\n",
    "from urllib.request import urlopen\n",
    "from urllib import request\n",
    "import urllib3\n",
    "import httpx\n",
    "from httpx import get\n",
    "import http.client\n",
    "from http import client\n",
    "import socket\n",
    "from socket import create_connection\n",
    "def f():\n    import aiohttp\n",
    "import websockets\n",
    "import smtplib\n",
    "import openai\n",
    "import wandb\n",
    "from huggingface_hub import HfApi\n",
    "from datasets import load_dataset\n",
]


def planted(folder: Path, text: str) -> list[SourceFile]:
    (folder / "planted" / "room").mkdir(parents=True)
    (folder / "planted" / "room" / "a.py").write_text(text, encoding="utf-8")
    return read_package(folder / "planted")


@pytest.mark.parametrize("text", UNSAFE)
def test_unsafe_lines_are_found(tmp_path: Path, text: str) -> None:
    assert code_rules.unsafe_code(planted(tmp_path, text))


@pytest.mark.parametrize("text", ELSEWHERE)
def test_what_has_one_door_is_found_elsewhere(tmp_path: Path, text: str) -> None:
    assert code_rules.loads_elsewhere(planted(tmp_path, text))


@pytest.mark.parametrize("text", REACHING_OUT)
def test_lines_that_reach_other_machines_are_found(tmp_path: Path, text: str) -> None:
    assert code_rules.outgoing_connections(planted(tmp_path, text))


@pytest.mark.parametrize("places", [*code_rules.DOORS.values(), *code_rules.CONNECTIONS.values()])
def test_every_declared_place_is_a_file_that_uses_it(places: object) -> None:
    source = Path(__file__).parents[2] / "src" / "tunesmith"
    assert isinstance(places, frozenset | dict)
    for name in places:
        assert (source / name).is_file(), f"{name} is declared and does not exist"


def test_harmless_neighbours_pass(tmp_path: Path) -> None:
    text = (
        "import re, json, torch\nfrom urllib.parse import urlsplit\nfrom http import HTTPStatus\n"
        "re.compile('x')\ntorch.compile(f)\njson.load(stream)\nmodel.eval()\n"
    )
    files = planted(tmp_path, text)
    for rule in (code_rules.unsafe_code, code_rules.loads_elsewhere, code_rules.outgoing_connections):
        assert rule(files) == []
