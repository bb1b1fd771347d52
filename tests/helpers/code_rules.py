"""Rules of the house that are read off the syntax tree: a rule takes parsed files and returns what breaks it.

Every rule returns one line per finding, ``file:line: what is wrong``, and an empty list when all is well, so
that a test can both hold the real code to it and prove with planted snippets that it is able to fail.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_LINES, MEDIAN_FILE_LINES = 600, 150
MAX_FUNCTION_LINES, P95_FUNCTION_LINES = 100, 50
MAX_BRANCHES, MAX_CLASS_LINES = 25, 300

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class SourceFile:
    """One parsed file: its path inside the package ("train/loop.py"), its dotted name, text and tree."""

    name: str
    module: str
    text: str
    tree: ast.Module

    def at(self, node: ast.AST, what: str) -> str:
        """A finding at the line of ``node``."""
        return f"{self.name}:{getattr(node, 'lineno', 1)}: {what}"


def read_package(folder: Path) -> list[SourceFile]:
    """Every Python file below ``folder``, whose own name is the name of the package."""
    files = []
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder)
        parts = [folder.name, *inside.with_suffix("").parts]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        files.append(SourceFile(inside.as_posix(), module, text, ast.parse(text, str(path))))
    return files


def functions(file: SourceFile) -> Iterator[FunctionNode]:
    """Every function and method of a file, nested ones too."""
    return (node for node in ast.walk(file.tree) if isinstance(node, FunctionNode))


def lines_of(node: ast.AST) -> int:
    """Lines from the first to the last of a definition, its decorators left out."""
    return int(node.end_lineno - node.lineno + 1)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------ sizes


def branches_of(node: ast.AST) -> int:
    """Decision points: if, elif, for, while, except, match cases and conditions in comprehensions.

    Boolean operators and conditional expressions are not counted: they choose a value, not a path.
    """
    points = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
    return sum(
        len(each.ifs) if isinstance(each, ast.comprehension) else isinstance(each, points) for each in ast.walk(node)
    )


def sizes(files: list[SourceFile]) -> list[str]:
    """Files, functions and classes beyond their budgets, and the two quantiles over the whole package."""
    found: list[str] = []
    file_lines, function_lines = [], []
    for file in files:
        length = len(file.text.splitlines())
        file_lines.append(length)
        if length > MAX_FILE_LINES:
            found.append(f"{file.name}:1: {length} lines, at most {MAX_FILE_LINES}")
        for node in functions(file):
            function_lines.append(lines_of(node))
            if lines_of(node) > MAX_FUNCTION_LINES:
                found.append(file.at(node, f"{node.name}: {lines_of(node)} lines, at most {MAX_FUNCTION_LINES}"))
            if branches_of(node) > MAX_BRANCHES:
                found.append(file.at(node, f"{node.name}: {branches_of(node)} branches, at most {MAX_BRANCHES}"))
        for class_node in (each for each in ast.walk(file.tree) if isinstance(each, ast.ClassDef)):
            if lines_of(class_node) > MAX_CLASS_LINES:
                found.append(
                    file.at(class_node, f"{class_node.name}: {lines_of(class_node)} lines, at most {MAX_CLASS_LINES}")
                )
    if file_lines and statistics.median(file_lines) > MEDIAN_FILE_LINES:
        found.append(f"all files: median {statistics.median(file_lines)} lines, at most {MEDIAN_FILE_LINES}")
    if function_lines:
        p95 = sorted(function_lines)[int(0.95 * (len(function_lines) - 1))]
        if p95 > P95_FUNCTION_LINES:
            found.append(f"all functions: 95th percentile {p95} lines, at most {P95_FUNCTION_LINES}")
    return found


# ---------------------------------------------------------------------------------------- imports


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted origin, for every import of a file, those inside functions too."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = "." * node.level + f"{node.module or ''}.{alias.name}"
    return names


def dotted(node: ast.AST, imports: dict[str, str]) -> str:
    """The full dotted name of ``a.b.c`` with its first part resolved through the imports, or ""."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([imports.get(node.id, node.id), *reversed(parts)])


def _imported_modules(file: SourceFile, known: set[str]) -> set[str]:
    """The modules of the package that a file imports, wherever the import stands."""
    package = file.module if file.name.endswith("__init__.py") else file.module.rpartition(".")[0]
    targets: set[str] = set()
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                targets.add(inner if inner in known else base)
    return (targets & known) - {file.module}


def import_cycles(files: list[SourceFile]) -> list[str]:
    """Groups of modules that import each other, directly or around a corner; lazy imports count."""
    known = {file.module for file in files}
    edges = {file.module: _imported_modules(file, known) for file in files}

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            fresh = edges[waiting.pop()] - seen
            seen |= fresh
            waiting.extend(fresh)
        return seen

    reach = {module: reachable(module) for module in edges}
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in edges
        if module in reach[module]
    }
    return [f"import cycle: {' <-> '.join(group)}" for group in sorted(groups)]


def room_packages_empty(files: list[SourceFile]) -> list[str]:
    """Rooms without ``__init__.py`` and imports in one: importing one file of a room must not pull in the others.

    ``messages`` is the one exception: its functions are called from everywhere and live in the package itself.
    """
    packages = {file.name.removesuffix("__init__.py") for file in files if file.name.endswith("__init__.py")}
    folders = {f"{file.name.rpartition('/')[0]}/" for file in files if "/" in file.name}
    return [
        f"{folder}: no __init__.py, so the import contracts do not see it" for folder in sorted(folders - packages)
    ] + [
        file.at(node, "a room's __init__.py holds its docstring and no imports")
        for file in files
        if file.name.endswith("/__init__.py") and not file.name.startswith("messages/")
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__"
    ]


# ------------------------------------------------------------------------------------- assignments

# Settings that a library publishes as attributes, made to be assigned.
SETTINGS = ("torch.backends.",)


def _chain_root(node: ast.AST) -> ast.AST:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node


def _written_attributes(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions whose attribute a statement or call sets or deletes."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node
    if isinstance(node, ast.Call) and node.args:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in {"setattr", "delattr", "__setattr__", "__delattr__"}:
            yield node.args[0]


def _is_of_a_class(node: ast.expr) -> bool:
    """``type(x).name`` or ``x.__class__.name``: a write that reaches every instance."""
    root = _chain_root(node)
    by_call = isinstance(root, ast.Call) and getattr(root.func, "id", "") == "type"
    return by_call or any(isinstance(each, ast.Attribute) and each.attr == "__class__" for each in ast.walk(node))


def _scope_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the functions inside it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, FunctionNode | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _foreign_in_scope(scope: ast.AST, outer: set[str], imports: dict[str, str]) -> set[str]:
    """The names that stand for imported things in a scope: not shadowed, or aliases of one."""
    aliases, local = set(), set()
    if isinstance(scope, FunctionNode):
        arguments = scope.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        local |= {each.arg for each in every if each}
    for node in _scope_nodes(scope):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            local.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            aliases |= set(imported_names(node))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute):
            root = _chain_root(node.value)
            if isinstance(root, ast.Name) and root.id in outer | set(imports):
                aliases |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return (outer - local) | aliases


def foreign_assignments(files: list[SourceFile]) -> list[str]:
    """Writes to attributes of imported modules, classes and objects: other people's things stay as they are."""
    found: list[str] = []
    for file in files:
        imports = imported_names(file.tree)

        def visit(scope: ast.AST, outer: set[str], file: SourceFile = file, imports: dict[str, str] = imports) -> None:
            foreign = _foreign_in_scope(scope, outer, imports)
            for node in _scope_nodes(scope):
                for target in _written_attributes(node):
                    root = _chain_root(target)
                    name = dotted(target, imports)
                    is_foreign = isinstance(root, ast.Name) and root.id in foreign
                    if (is_foreign and not name.startswith(SETTINGS)) or _is_of_a_class(target):
                        found.append(file.at(node, f"writes to {ast.unparse(target)}, which is not its own"))
                if isinstance(node, FunctionNode | ast.Lambda):
                    visit(node, foreign)

        visit(file.tree, set())
    return found


# ------------------------------------------------------------------------------ what never appears

BANNED_MODULES = frozenset(
    {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code"}
)
BANNED_CALLS = frozenset(
    {"exec", "eval", "compile", "__import__", "torch.load", "torch.save", "torch.jit.load"}
    | {f"builtins.{name}" for name in ("exec", "eval", "compile", "__import__")}
    | {f"torch.hub.{name}" for name in ("load", "load_state_dict_from_url", "download_url_to_file")}
    | {f"numpy.{name}" for name in ("load", "save", "savez", "savez_compressed")}  # pickles what is no number
    | {"runpy.run_path", "runpy.run_module", "shutil.unpack_archive", "tarfile.open"}
    | {f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")}
    | {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "pandas.read_pickle"}
    | {f"os.{name}{how}" for name in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
)
# keyword -> the values it may have; any other value, a variable too, is a finding
GUARDED_KEYWORDS = {"shell": {False}, "trust_remote_code": {False}, "allow_pickle": {False}, "weights_only": {True}}


def _guarded(name: object, value: ast.expr | None) -> bool:
    allowed = GUARDED_KEYWORDS.get(str(name))
    return allowed is not None and not (isinstance(value, ast.Constant) and value.value in allowed)


def _unsafe(node: ast.AST, imports: dict[str, str]) -> str:
    """What is unsafe about one node, or ""."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        origins = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        banned = [origin for origin in origins if origin.split(".")[0] in BANNED_MODULES]
        return f"imports {banned[0]}" if banned else ""
    if isinstance(node, ast.Call):
        name = dotted(node.func, imports)
        if name in BANNED_CALLS:
            return f"calls {name}"
        keywords = [each.arg for each in node.keywords if _guarded(each.arg, each.value)]
        return f"passes {keywords[0]} with a value that is not known to be safe" if keywords else ""
    if isinstance(node, ast.Dict):
        keys = [
            key.value
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and _guarded(key.value, value)
        ]
        return f"passes {keys[0]} with a value that is not known to be safe" if keys else ""
    return ""


def unsafe_code(files: list[SourceFile]) -> list[str]:
    """exec, eval, pickle in any form, unsafe YAML, a shell, code of a model repository."""
    found = []
    for file in files:
        imports = imported_names(file.tree)
        for node in ast.walk(file.tree):
            what = _unsafe(node, imports)
            if what:
                found.append(file.at(node, what))
    return found


# What each danger may be reached through: names -> the files that may use them. In one place the policy of revision,
# source, code, limits and checks is decided once.
DOORS: dict[str, frozenset[str]] = {
    # the second is PEFT's own, given nothing but a folder that was written here, with checked settings
    "from_pretrained": frozenset({"models/load.py", "ship/adapter_judge.py"}),
    "snapshot_download": frozenset({"models/hub.py", "data/collect/hubs.py"}),
    "ZipFile": frozenset({"data/formats/unpack.py"}),  # in memory, within limits, nothing is written
    "TarFile": frozenset({"data/formats/tar.py"}),  # the same
    "extractall": frozenset(),
    "apply_chat_template": frozenset(),
    "load_adapter": frozenset(),
    "from_peft_type": frozenset(),
    "safe_open": frozenset({"models/weights.py"}),
    "load_file": frozenset(),
    "GGUFReader": frozenset({"models/gguf_import.py", "ship/parity.py", "ship/stored_types.py"}),
    "ImmutableSandboxedEnvironment": frozenset({"tasks/limited_template.py"}),
    "SandboxedEnvironment": frozenset(),
    "Environment": frozenset({"evaluate/card.py"}),  # our own page, from our own folder
    "import_module": frozenset({"__init__.py", "models/hub.py", "data/formats/extras.py"}),  # our own names; extras
}


def loads_elsewhere(files: list[SourceFile]) -> list[str]:
    """Uses of a name of ``DOORS`` in a file that is not its door."""
    found = []
    for file in files:
        for node in ast.walk(file.tree):
            for name in _names_used(node):
                if name in DOORS and file.name not in DOORS[name]:
                    found.append(file.at(node, f"{name} belongs to {', '.join(sorted(DOORS[name])) or 'no file'}"))
    return found


def _names_used(node: ast.AST) -> list[str]:
    """Names that a node takes from elsewhere: attributes, imported names, and those given as text to getattr."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
        return [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return []


# Modules that reach other machines -> the files that may import them, and what for.
CONNECTIONS: dict[str, dict[str, str]] = {
    "huggingface_hub": {
        "models/hub.py": "downloads that a recipe asks for",
        "data/collect/hubs.py": "data sets that a recipe names",
    },
    "fsspec": {"data/collect/stores.py": "object stores that a recipe names"},
    "httpx": {
        "data/collect/hubs.py": "the errors of such a download",
        "models/hub.py": "the errors of such a download",
        "tasks/hosted_teacher.py": "the address of a teacher that a recipe names",
        "cli/demo_service.py": "the demo's own service",
    },
    "openai": {"cli/demo_service.py": "the demo's own service, on loopback"},
    "http.client": {"ship/formats/llama_cpp.py": "llama.cpp in a child process, on loopback"},
    "ray": {"data/corpus/on_ray.py": "the cluster that somebody names for the pass over a corpus"},
    "socket": {
        "data/corpus/on_ray.py": "whether that cluster is there",
        "serve/access.py": "the port that is served",
        "serve/server.py": "the port that is served",
        "cli/doctor.py": "whether that port is free",
    },
}
NEVER_IMPORTED = frozenset(
    "aiohttp boto3 comet_ml datasets ftplib grpc imaplib modelscope nntplib paramiko poplib pycurl requests sentry_sdk"
    " smtplib socks swanlab telnetlib urllib.request urllib3 wandb websocket websockets xmlrpc".split()
)
"""Modules whose purpose is to reach other machines, and which nothing here needs."""


def outgoing_connections(files: list[SourceFile]) -> list[str]:
    """Imports of what reaches other machines, outside the places that are declared with a reason."""
    found = []
    for file in files:
        for node in ast.walk(file.tree):
            for origin in _imported_origins(node):
                parts = origin.split(".")
                modules = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
                allowed = {module: CONNECTIONS[module] for module in modules & set(CONNECTIONS)}
                if modules & NEVER_IMPORTED or any(file.name not in places for places in allowed.values()):
                    found.append(file.at(node, f"imports {origin}, which reaches other machines"))
    return found


def _imported_origins(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


# ------------------------------------------------------------------------------------ public names


def _is_public_file(file: SourceFile) -> bool:
    return not any(part.startswith("_") and not part.startswith("__") for part in file.name.split("/"))


def _decorators(node: FunctionNode) -> set[str]:
    return {dotted(each, {}).rpartition(".")[2] for each in node.decorator_list}


def _public_definitions(
    body: Iterable[ast.stmt], inside: str = ""
) -> Iterator[tuple[str, ast.ClassDef | FunctionNode]]:
    """Public classes, functions and methods with their qualified names; definitions in functions are private."""
    for node in body:
        if isinstance(node, ast.If):  # for example `if TYPE_CHECKING`, or a platform switch
            yield from _public_definitions([*node.body, *node.orelse], inside)
        if isinstance(node, ast.ClassDef | FunctionNode) and not node.name.startswith("_"):
            yield f"{inside}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node.body, f"{inside}{node.name}.")


def missing_docstrings(files: list[SourceFile]) -> list[str]:
    """Public modules, classes, functions and methods without a docstring (overloads and overrides aside)."""
    found = []
    for file in filter(_is_public_file, files):
        if file.text.strip() and not ast.get_docstring(file.tree):
            found.append(f"{file.name}:1: no docstring")
        for name, node in _public_definitions(file.tree.body):
            spared = isinstance(node, FunctionNode) and _decorators(node) & {"overload", "override", "setter"}
            if not spared and not ast.get_docstring(node):
                found.append(file.at(node, f"{name}: no docstring"))
    return found


def _mentions_any(annotation: ast.AST | None, imports: dict[str, str]) -> bool:
    if annotation is None:
        return False
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name | ast.Attribute) and dotted(node, imports) in {
            "typing.Any",
            "typing_extensions.Any",
        }:
            return True
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                if _mentions_any(ast.parse(node.value, mode="eval"), imports):
                    return True
            except SyntaxError:
                continue  # the text of a Literal or of Annotated
    return False


def any_in_signatures(files: list[SourceFile]) -> list[str]:
    """``Any`` in the parameters, results and fields of public names: it switches the type checker off there."""
    found = []
    for file in filter(_is_public_file, files):
        imports = imported_names(file.tree)
        definitions = list(_public_definitions(file.tree.body))
        for name, node in definitions:
            members = [(name, node)]
            if isinstance(node, ast.ClassDef):
                special = [each for each in node.body if isinstance(each, FunctionNode) and each.name.startswith("__")]
                members = [(f"{name}.{each.name}", each) for each in special]
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
                for field in fields:
                    public = isinstance(field.target, ast.Name) and not field.target.id.startswith("_")
                    if public and _mentions_any(field.annotation, imports):
                        found.append(file.at(field, f"{name}.{ast.unparse(field.target)}: Any"))
            for member, function in members:
                arguments = [each for each in ast.walk(function.args) if isinstance(each, ast.arg)]  # type: ignore[union-attr]
                annotations = [*(each.annotation for each in arguments), function.returns]  # type: ignore[union-attr]
                if any(_mentions_any(each, imports) for each in annotations):
                    found.append(file.at(function, f"{member}: Any in a public signature"))
    return found


RULES: tuple[Callable[[list[SourceFile]], list[str]], ...] = (
    sizes,
    import_cycles,
    room_packages_empty,
    foreign_assignments,
    unsafe_code,
    loads_elsewhere,
    outgoing_connections,
    missing_docstrings,
    any_in_signatures,
)
