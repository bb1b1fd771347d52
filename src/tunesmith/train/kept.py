"""What is measured once for a stage and then kept beside it: never measured a second time, never taken on trust."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tunesmith.core.conditions import differences, listed
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder, sha256_file, verify_folder
from tunesmith.models.weights import read_tensors
from tunesmith.runtime.base import Runtime

TENSORS = "tensors.safetensors"


def kept_tensors(
    folder: Path, facts: Mapping[str, str], make: Callable[[], Mapping[str, Tensor]], runtime: Runtime
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a folder and the hash of their file; made by the first rank where there is no such folder.

    Args:
        facts: all that the tensors depend on, by name; they stand in the folder's manifest.

    Errors: train.kept_differs where the folder was made from something else, those of `verify_folder`.
    """
    if runtime.rank == 0 and not folder.exists():
        made = {name: each.contiguous() for name, each in make().items()}
        with new_folder(folder, sum(each.nbytes for each in made.values()), facts=dict(facts)) as aside:
            save_file(made, aside / TENSORS)
    runtime.barrier()
    stated = verify_folder(folder).get("facts")
    found = differences(stated if isinstance(stated, dict) else {}, facts)
    if found:
        raise TunesmithError("train.kept_differs", path=str(folder), differences=listed(found))
    return read_tensors(folder / TENSORS), sha256_file(folder / TENSORS)
