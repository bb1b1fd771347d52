"""What a child process of a test finds by name: the helpers first, then whatever this process was told."""

from __future__ import annotations

import os
from pathlib import Path

HELPERS = Path(__file__).parent


def python_path(*more: Path) -> str:
    """PYTHONPATH of a child, with further folders behind the helpers; the tested sources may stand in ours."""
    return os.pathsep.join([str(HELPERS), *map(str, more), *filter(None, [os.environ.get("PYTHONPATH")])])
