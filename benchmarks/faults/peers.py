"""Three faults, put to transformers' Trainer, to TRL's SFTTrainer and to Tunesmith.

    python -m benchmarks.faults.peers [--kills 5] [--flips 50] [--who trl tunesmith] [--out FILE]

    kill    SIGKILL while a checkpoint is written; then the same command again. Does it find a whole checkpoint by
            itself, and are the final weights byte-equal to those of an unbroken run?
    flip    one bit of a checkpoint's weights changed; then the checkpoint is used. Is it noticed?
    mask    rows whose answer lies behind the length limit; some of them, then all. What is said?

Each answer is a line of JSON with what was seen; errors are quoted, not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.faults.train import BATCH, STEPS, rows
from tunesmith.core.files import sha256_file, write_atomic, write_json
from tunesmith.models.tiny import tiny_chat_model

RECIPE = f"""
name: faults
model: {{base: BASE, dtype: float32}}
data:
  sources: [{{path: train.jsonl, layout: prompt_completion}}]
  validation_sources: [{{path: validation.jsonl, layout: prompt_completion}}]
  test_sources: [{{path: test.jsonl, layout: prompt_completion}}]
stages:
  - name: instruct
    adapt: {{kind: full}}
    train: {{max_steps: {STEPS}, epochs: 9, save_steps: 4, batch_size: {BATCH}, max_length: LENGTH}}
evaluate: {{metrics: [exact_match], max_new_tokens: 4, examples: 0}}
ship: {{formats: [safetensors]}}
runtime: {{threads: 1, device: cpu}}
"""


def command_of(who: str, base: Path, folder: Path, *, again: bool) -> list[str]:
    """The command that trains; Tunesmith's is the same when it goes on."""
    if who == "tunesmith":
        write_project(base, folder)
        return [sys.executable, "-m", "tunesmith", "train", str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]
    return [
        sys.executable,
        "-m",
        "benchmarks.faults.train",
        who,
        str(base),
        str(folder),
        *(["--resume"] if again else []),
    ]


def write_project(base: Path, folder: Path, length: int = 128, found: list[dict[str, str]] | None = None) -> None:
    """Recipe and rows for Tunesmith."""
    lines = [json.dumps(row) + "\n" for row in found or rows()]
    write_atomic(folder / "train.jsonl", "".join(lines))
    for name in ("validation", "test"):
        some = [{"prompt": f"{name}: what is {number}?", "completion": f" It is {number}."} for number in range(8)]
        write_atomic(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in some))
    write_atomic(folder / "recipe.yaml", RECIPE.replace("BASE", str(base)).replace("LENGTH", str(length)))


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)


def _environment() -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TUNESMITH_LANG": "en",
        "TOKENIZERS_PARALLELISM": "false",
    }


def checkpoints(who: str, folder: Path) -> Path:
    """The folder in which checkpoints appear."""
    if who != "tunesmith":
        return folder
    return next(iter(sorted(folder.glob("runs/*/*/instruct"))), folder / "nothing yet")


def final_bytes(who: str, folder: Path) -> str:
    """SHA-256 of the weights at the end."""
    if who == "tunesmith":
        return sha256_file(checkpoints(who, folder) / f"checkpoint-{STEPS}" / "model.safetensors")
    return sha256_file(folder / "final" / "model.safetensors")


# ------------------------------------------------------------------------------------------------------------ kill


def killed_in_mid_save(
    who: str, base: Path, folder: Path, draw: random.Random, whole: frozenset[str]
) -> list[str] | None:
    """Kill while the third checkpoint is written; the names that stood there, or None where it was whole already."""
    child = subprocess.Popen(
        command_of(who, base, folder, again=False),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    target = f"checkpoint-{3 * 4}"
    while child.poll() is None:
        place = checkpoints(who, folder)
        begun = (place / target).is_dir()
        if who == "tunesmith":
            begun = (place / "checkpoint-8").is_dir() and any(place.glob(".aside-*/*"))
        if begun:
            time.sleep(draw.uniform(0, 0.15))
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.0005)
    child.wait()
    place = checkpoints(who, folder)
    if who == "tunesmith":
        return sorted(path.name for path in place.glob(".aside-*/*")) or None
    names = frozenset(path.name for path in (place / target).iterdir()) if (place / target).is_dir() else frozenset()
    return sorted(names) if names < whole else None


def kill(who: str, base: Path, root: Path, kills: int, draw: random.Random) -> dict[str, object]:
    """Kills in mid-save, each followed by the command that goes on."""
    unbroken = root / "unbroken"
    first = run(command_of(who, base, unbroken, again=False))
    assert first.returncode == 0, first.stderr[-2000:]
    wanted = final_bytes(who, unbroken)
    whole = frozenset(path.name for path in (checkpoints(who, unbroken) / f"checkpoint-{STEPS}").iterdir())
    seen: list[dict[str, object]] = []
    for attempt in range(12 * kills):
        if len(seen) == kills:
            break
        folder = root / f"killed-{attempt}"
        left = killed_in_mid_save(who, base, folder, draw, whole)
        if left is not None:
            again = run(command_of(who, base, folder, again=True))
            ended = again.returncode == 0
            seen.append({
                "left": left,
                "went_on_by_itself": ended,
                "byte_equal": ended and final_bytes(who, folder) == wanted,
                "said": "" if ended else _last_line(again.stderr or again.stdout),
            })  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
    good = sum(bool(each["went_on_by_itself"]) for each in seen)
    equal = sum(bool(each["byte_equal"]) for each in seen)
    return {"kills": len(seen), "went_on_by_itself": good, "byte_equal": equal, "each": seen}


def _last_line(text: str) -> str:
    return ([line for line in text.strip().splitlines() if line.strip()] or [""])[-1][:300]


# ------------------------------------------------------------------------------------------------------------ flip


def flip(who: str, base: Path, root: Path, flips: int, draw: random.Random) -> dict[str, object]:
    """One bit of the weights of a checkpoint, many times; then the checkpoint is used as its trainer uses it."""
    noticed = 0
    place = checkpoints(who, root / "unbroken") / "checkpoint-24"
    weights = place / "model.safetensors"
    content = weights.read_bytes()
    first = 8 + int.from_bytes(content[:8], "little")
    said: set[str] = set()
    for _ in range(flips):
        changed = bytearray(content)
        at = draw.randrange(first, len(content))
        changed[at] ^= 1 << draw.randrange(8)
        weights.write_bytes(bytes(changed))
        words = USES[who](place)
        noticed += bool(words)
        said.add(words[:200])
    weights.write_bytes(content)
    return {"flips": flips, "noticed": noticed, "said": sorted(said - {""})[:2]}


def _load_with_transformers(place: Path) -> str:
    from transformers import AutoModelForCausalLM

    try:
        AutoModelForCausalLM.from_pretrained(str(place), local_files_only=True)
    except Exception as error:  # whatever it says is what is reported
        return f"{type(error).__name__}: {error}"
    return ""


def _load_with_tunesmith(place: Path) -> str:
    from tunesmith.core.errors import TunesmithError
    from tunesmith.models.load import resolve_base

    try:
        resolve_base(str(place))
    except TunesmithError as error:
        return str(error)
    return ""


USES: Mapping[str, Callable[[Path], str]] = {
    "transformers": _load_with_transformers,
    "trl": _load_with_transformers,
    "tunesmith": _load_with_tunesmith,
}


# ------------------------------------------------------------------------------------------------------------ mask

LONG = "word " * 60


def masked_rows(count: int) -> list[dict[str, str]]:
    """All rows, the first `count` of them with a question that is longer than the limit."""
    return [{**row, "prompt": LONG + row["prompt"]} if place < count else row for place, row in enumerate(rows())]


def mask_trl(base: Path, folder: Path, count: int) -> dict[str, object]:
    """TRL with completion-only loss, which is its way with prompts and completions."""
    program = (
        "import sys, torch; from pathlib import Path; from benchmarks.faults import train, peers\n"
        "torch.set_num_threads(1)\n"
        "train.with_trl(Path(sys.argv[1]), Path(sys.argv[2]), resume=False, length=48,"
        " rows_of=peers.masked_rows(int(sys.argv[3])))"
    )
    done = run([sys.executable, "-c", program, str(base), str(folder), str(count)])
    log = json.loads((folder / "log.json").read_text("utf-8")) if (folder / "log.json").is_file() else []
    losses = [each["loss"] for each in log if "loss" in each]
    notices = [line for line in done.stderr.splitlines() if "mask" in line.lower() or "truncat" in line.lower()]
    return {"exit": done.returncode, "losses": losses[:6], "notices": notices[:3], "said": _last_line(done.stderr)}


def mask_transformers(base: Path, folder: Path, count: int) -> dict[str, object]:
    """The Trainer on labels that are all -100 in `count` rows."""
    program = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
torch.set_num_threads(1)
base, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
ids = torch.arange(3, 27)
data = [{"input_ids": ids, "labels": torch.full_like(ids, -100) if n < count else ids} for n in range(48)]
arguments = TrainingArguments(output_dir=folder, max_steps=6, per_device_train_batch_size=4, logging_steps=1,
                              report_to=[], use_cpu=True, disable_tqdm=True, seed=1)
trainer = Trainer(model=AutoModelForCausalLM.from_pretrained(base, local_files_only=True), args=arguments,
                  train_dataset=data)
trainer.train()
finite = all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
Path(folder, "log.json").write_text(json.dumps({"log": trainer.state.log_history, "finite": finite}))
"""
    done = run([sys.executable, "-c", program, str(base), str(folder), str(count)])
    told = json.loads((folder / "log.json").read_text("utf-8")) if (folder / "log.json").is_file() else {"log": []}
    losses = [each["loss"] for each in told["log"] if "loss" in each]
    return {
        "exit": done.returncode,
        "losses": losses,
        "weights_finite": told.get("finite"),
        "said": _last_line(done.stderr),
    }


def mask_tunesmith(base: Path, folder: Path, count: int) -> dict[str, object]:
    """A recipe whose max_length ends before the answer of `count` rows."""
    write_project(base, folder, length=48, found=masked_rows(count))
    recipe = str(folder / "recipe.yaml")
    done = run([sys.executable, "-m", "tunesmith", "train", recipe, "--runs", str(folder / "runs"), "--json"])
    told = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    ledgers = list(folder.glob("runs/*/*/ledger.jsonl"))
    dropped = [
        json.loads(line) for path in ledgers for line in path.read_text("utf-8").splitlines() if "behind" in line
    ]
    steps = [
        json.loads(line) for path in folder.glob("runs/*/*/metrics.jsonl") for line in path.open() if '"step"' in line
    ]
    losses = [each["loss"] for each in steps if each.get("kind") == "step"][:6]
    error = told.get("error", {})
    return {"exit": done.returncode, "losses": losses, "rows_listed": len(dropped), "said": error.get("cause", "")}


MASKS = {"transformers": mask_transformers, "trl": mask_trl, "tunesmith": mask_tunesmith}


def main() -> None:
    """Everything, one trainer after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("peers-faults.json"))
    parser.add_argument("--who", nargs="+", default=list(MASKS), choices=list(MASKS))
    chosen = parser.parse_args()
    versions = {name: version(name) for name in ("transformers", "trl", "torch", "safetensors", "tunesmith")}
    found: dict[str, object] = {"versions": versions}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        base = tiny_chat_model(root / "base", hidden=256, layers=6, spread=0.05, context=2048)
        for who in chosen.who:
            draw = random.Random(1)
            place = root / who
            seen = {
                "kill": kill(who, base, place, chosen.kills, draw),
                "flip": flip(who, base, place, chosen.flips, draw),
                "some rows masked": MASKS[who](base, place / "some", 12),
                "all rows masked": MASKS[who](base, place / "all", len(rows())),
            }
            found[who] = seen
            print(json.dumps({who: seen}, ensure_ascii=False), flush=True)
    write_json(chosen.out, found)


if __name__ == "__main__":
    main()
