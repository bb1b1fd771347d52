"""The house rules hold for the whole package, and each rule is shown to be able to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import code_rules
import pytest
from code_rules import RULES, SourceFile, read_package

SOURCE = Path(__file__).parents[2] / "src" / "tunesmith"


@pytest.fixture(scope="module")
def package() -> list[SourceFile]:
    files = read_package(SOURCE)
    assert len(files) > 3, f"no code under {SOURCE}: the rules would hold for nothing"
    return files


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Callable[[list[SourceFile]], list[str]], package: list[SourceFile]) -> None:
    found = rule(package)
    assert not found, f"{len(found)} findings\n" + "\n".join(found)


def plant(folder: Path, **files: str) -> list[SourceFile]:
    """A package "planted" made of the given files, each named by its path without ".py"."""
    for name, text in files.items():
        path = folder / "planted" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_package(folder / "planted")


def a_function(lines: int, statement: str = "x = 1") -> str:
    return "def long():\n" + "".join(f"    {statement}\n" for _ in range(lines - 1))


LONG_FILES = {f"file_{i}": "x = 1\n" * 151 for i in range(3)}
SIXTY_LINE_FUNCTIONS = {"a": "".join(a_function(60) for _ in range(5))}


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a": "x = 1\n" * 601}, "601 lines, at most 600"),
        (LONG_FILES, "median 151"),
        ({"a": a_function(101)}, "long: 101 lines"),
        (SIXTY_LINE_FUNCTIONS, "95th percentile 60"),
        ({"a": a_function(27, "if x: pass")}, "26 branches"),
        ({"a": a_function(27, "y = [i for i in x if i]")}, "26 branches"),
        ({"a": "class Big:\n" + "    x = 1\n" * 300}, "Big: 301 lines"),
    ],
)
def test_sizes_can_fail(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    assert complaint in "\n".join(code_rules.sizes(plant(tmp_path, **files)))


def test_sizes_at_the_limit_pass(tmp_path: Path) -> None:
    short = "".join(f"def f{i}():\n    pass\n" for i in range(30))
    at_limit = {
        "a": "x = 1\n" * 600,
        "b": a_function(100),
        "c": a_function(26, "if x: pass"),
        "d": "class Big:\n" + "    x = 1\n" * 299,
    }
    assert code_rules.sizes(plant(tmp_path, **at_limit, e=short, f="", g="", h="", i="")) == []


@pytest.mark.parametrize(
    "files",
    [
        {"a": "from planted import b\n", "b": "import planted.a\n"},
        {"a": "from planted.b import x\n", "b": "def later():\n    from planted.a import y\n"},
        {"a": "from planted.b import x\n", "b": "from .c import y\n", "c": "from . import a\n"},
        {"r/a": "from ..s.b import x\n", "s/b": "from planted.r import a\n"},
    ],
)
def test_cycles_are_found_lazy_and_relative_ones_too(tmp_path: Path, files: dict[str, str]) -> None:
    assert len(code_rules.import_cycles(plant(tmp_path, **files))) == 1


def test_a_straight_line_of_imports_is_no_cycle(tmp_path: Path) -> None:
    files = plant(tmp_path, a="from planted import b\n", b="from planted.c import x\nimport os\n", c="x = 1\n")
    assert code_rules.import_cycles(files) == []


def test_a_room_that_imports_its_own_files_is_found(tmp_path: Path) -> None:
    files = plant(tmp_path, **{"room/__init__": '"""Room."""\nfrom planted.room import heavy\n', "room/heavy": ""})
    assert len(code_rules.room_packages_empty(files)) == 1


def test_a_room_without_its_package_file_is_found(tmp_path: Path) -> None:
    files = plant(tmp_path, **{"room/inner/a": "", "room/__init__": ""})
    assert code_rules.room_packages_empty(files) == [
        "room/inner/: no __init__.py, so the import contracts do not see it"
    ]


@pytest.mark.parametrize(
    "snippet",
    [
        "import torch\ntorch.nn.Linear.forward = lambda self, x: x\n",
        "from transformers import LlamaModel\nLlamaModel.forward = None\n",
        "import torch\ndef patch():\n    torch.save = None\n",
        "import torch.nn.functional as F\nF.linear = None\n",
        "import torch\nF = torch.nn.functional\nF.linear = None\n",
        "import torch\ndef patch():\n    layer = torch.nn.Linear\n    layer.forward = None\n",
        "import torch\nsetattr(torch.nn.Linear, 'forward', None)\n",
        "import os\ndel os.path\n",
        "import torch\ntorch.counter += 1\n",
        "import sys\nwith open('x') as sys.stdout:\n    pass\n",
        "def patch(model):\n    type(model).forward = None\n",
        "def patch(model):\n    model.__class__.forward = None\n",
        "def patch():\n    from peft import LoraConfig\n    LoraConfig.r = 3\n",
    ],
)
def test_writes_to_other_peoples_things_are_found(tmp_path: Path, snippet: str) -> None:
    assert len(code_rules.foreign_assignments(plant(tmp_path, a=snippet))) == 1


@pytest.mark.parametrize(
    "snippet",
    [
        "class A:\n    def __init__(self):\n        self.x = 1\n",
        "import os\nos.environ['X'] = '1'\n",
        "import torch\ndef f(torch):\n    torch.x = 1\n",
        "import torch\ndef f():\n    layer = torch.nn.Linear(1, 1)\n    layer.bias = None\n",
        "import torch\ntorch.backends.cuda.matmul.allow_tf32 = True\n",
    ],
)
def test_writes_to_ones_own_things_pass(tmp_path: Path, snippet: str) -> None:
    assert code_rules.foreign_assignments(plant(tmp_path, a=snippet)) == []


@pytest.mark.parametrize(
    "snippet",
    [
        "exec('x = 1')\n",
        "y = eval('1')\n",
        "import pickle\n",
        "from pickle import loads\n",
        "def f():\n    import joblib\n",
        "import torch\ntorch.load('x')\n",
        "from torch import load as read\nread('x')\n",
        "import torch as t\nt.save({}, 'x')\n",
        "import yaml\nyaml.load('x', Loader=None)\n",
        "import subprocess\nsubprocess.run('ls', shell=True)\n",
        "import os\nos.system('ls')\n",
        "load(trust_remote_code=True)\n",
        "def f(trust):\n    load(trust_remote_code=trust)\n",
        "options = {'trust_remote_code': True}\n",
        "import numpy\nnumpy.load('x', allow_pickle=True)\n",
    ],
)
def test_unsafe_code_is_found(tmp_path: Path, snippet: str) -> None:
    assert len(code_rules.unsafe_code(plant(tmp_path, a=snippet))) == 1


def test_safe_neighbours_pass(tmp_path: Path) -> None:
    snippet = (
        "import subprocess, yaml, json\nyaml.safe_load('x')\njson.load(open('x'))\nmodel.eval()\n"
        "subprocess.run(['ls'], shell=False)\nload(trust_remote_code=False)\n"
    )
    assert code_rules.unsafe_code(plant(tmp_path, a=snippet)) == []


def test_weights_come_in_through_one_door(tmp_path: Path) -> None:
    snippet = "from transformers import AutoModel\nmodel = AutoModel.from_pretrained('x')\n"
    files = plant(tmp_path, **{"models/load": snippet, "tasks/chat": snippet})
    assert code_rules.loads_elsewhere(files) == [
        "tasks/chat.py:2: from_pretrained belongs to models/load.py, ship/adapter_judge.py"
    ]


@pytest.mark.parametrize(
    "snippet",
    [
        "x = 1\n",
        '"""Doc."""\ndef public():\n    pass\n',
        '"""Doc."""\nclass Public:\n    x = 1\n',
        '"""Doc."""\nclass Public:\n    """Doc."""\n    async def method(self):\n        pass\n',
    ],
)
def test_missing_docstrings_are_found(tmp_path: Path, snippet: str) -> None:
    assert len(code_rules.missing_docstrings(plant(tmp_path, a=snippet))) == 1


def test_private_names_need_no_docstring(tmp_path: Path) -> None:
    snippet = '"""Doc."""\ndef _f():\n    def g():\n        pass\nclass _C:\n    def m(self):\n        pass\n'
    assert code_rules.missing_docstrings(plant(tmp_path, a=snippet, _hidden="def f():\n    pass\n")) == []


@pytest.mark.parametrize(
    "snippet",
    [
        "from typing import Any\ndef f(x: Any): ...\n",
        "import typing as t\ndef f() -> dict[str, t.Any]: ...\n",
        "from typing import Any\ndef f(*x: Any, y: int): ...\n",
        "from typing import Any\ndef f(x: 'list[Any]'): ...\n",
        "from typing import Any\nclass C:\n    def __init__(self, x: Any): ...\n",
        "from typing import Any\nclass C:\n    x: Any\n",
    ],
)
def test_any_in_public_signatures_is_found(tmp_path: Path, snippet: str) -> None:
    assert len(code_rules.any_in_signatures(plant(tmp_path, a=snippet))) == 1


def test_any_in_private_places_passes(tmp_path: Path) -> None:
    snippet = "from typing import Any\ndef _f(x: Any): ...\ndef g(x: object):\n    y: Any = x\n"
    assert code_rules.any_in_signatures(plant(tmp_path, a=snippet)) == []
