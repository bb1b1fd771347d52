"""A corpus cleaned in one pass:  make bench-data  or  python -m benchmarks.data [--case CASE] [--megabytes N ...]

pass        the whole pass over 3 kB rows of real texts, 0.2 and 2 GB: MB/s, memory, growth, planted copies and personal
            data found
datatrove   the same steps by datatrove (in the environment of $TUNESMITH_BENCH_DATATROVE, a Python) and by us, a run of
            each in turn, over a smaller corpus unless --peer-megabytes says another size
recall      near duplicates of a sample: ours against datasketch's, by the truth of what was planted
steps       MB/s of every step alone, on one thread

Reads the folder of data sets that TUNESMITH_SHARED_DATA names. Figures of earlier calls stay as long as machine and
versions are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.bench import ROOT, verdict, verdict_within
from benchmarks.corpus_rows import truth_of, write_corpus
from benchmarks.report import RESULTS, Results, spread, table
from benchmarks.systems import version_in
from tunesmith.core.ledger import Ledger
from tunesmith.core.process import available_cores
from tunesmith.core.types import SPLITS
from tunesmith.data.clean import normalize
from tunesmith.data.corpus.pieces import Piece, read_piece
from tunesmith.data.formats.read import Reading
from tunesmith.data.minhash import Bands, band_keys, signatures
from tunesmith.data.pii.apply import PersonalData
from tunesmith.data.repair.apply import repair_encoding
from tunesmith.data.shingles import shingle
from tunesmith.recipe.specs.clean import PiiSpec, RepairSpec
from tunesmith.recipe.specs.data import SourceSpec

MEGABYTES = (200, 2000)
PEER_MEGABYTES, SAMPLE_MEGABYTES, STEP_MEGABYTES = 40, 20, 32
THRESHOLD = 0.7
PLANTED_MAIL = r"person\d+@example\.com"
WANTED_SPEED, STRETCH, WANTED_RATIO, MOST_GB, MOST_GROWTH = 40.0, 100.0, 10.0, 3.0, 1.2


@dataclass(frozen=True)
class Bench:
    """One call of this benchmark."""

    data: Path
    folder: Path
    results: Results
    megabytes: tuple[int, ...]
    peer_megabytes: tuple[int, ...]
    runs: int

    def corpus(self, megabytes: int) -> Path:
        """A corpus of this size, made when it is first asked for."""
        folder = self.folder / f"corpus-{megabytes}"
        if not folder.exists():
            rows, written = write_corpus(self.data, folder, megabytes)
            print(f"  a corpus of {rows} rows, {written / 1e6:.0f} MB", flush=True)
        return folder


def _child(command: Sequence[str]) -> dict[str, object]:
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(f"{command} ended with {ran.returncode}\n{ran.stderr[-3000:]}")
    found: dict[str, object] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def _ours(bench: Bench, megabytes: int) -> tuple[dict[str, object], Path]:
    """What a build prints, with the planted mails that it left in, and its ledger."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as empty:
        out = Path(empty) / "out"
        corpus = str(bench.corpus(megabytes))
        found = _child([sys.executable, "-m", "benchmarks.peers.corpus_ours", corpus, str(out)])
        shards = (pl.read_parquet(path) for split in SPLITS for path in sorted((out / split).iterdir()))
        found["mails_left"] = sum(shard["text"].str.count_matches(PLANTED_MAIL).sum() for shard in shards)
        ledger = bench.folder / f"ledger-{megabytes}.parquet"
        pl.concat(pl.read_parquet(path) for path in sorted((out / "ledger").iterdir())).write_parquet(ledger)
    return found, ledger


# --------------------------------------------------------------------------------------------------- the pass


def whole_pass(bench: Bench) -> None:
    """Every size, some times; planted copies of the last run by the truth."""
    for megabytes in bench.megabytes:
        setting = f"{megabytes} MB"
        for _ in range(bench.runs):
            figures, ledger = _ours(bench, megabytes)
            seconds = float(str(figures["seconds"]))
            speed = float(str(figures["bytes"])) / 1e6 / seconds
            for metric, value in {**figures, "seconds": seconds, "mb_per_s": speed}.items():
                if metric in ("seconds", "mb_per_s", "rss_gb", "mails_left"):
                    bench.results.add("pass", "tunesmith", setting, metric, float(str(value)))
            steps = figures["steps"]
            assert isinstance(steps, dict)
            for step, value in steps.items():
                bench.results.add("pass", "tunesmith", setting, f"seconds_{step}", float(value))
            print(f"  {setting}: {speed:.1f} MB/s, {figures['rss_gb']:.2f} GB, {steps}", flush=True)
        truth = json.loads(truth_of(bench.corpus(megabytes)).read_text("utf-8"))
        fates = pl.read_parquet(ledger).sort("row")
        gone = fates.filter(pl.col("reason").str.contains("duplicate"))
        bench.results.add("pass", "tunesmith", setting, "copies_recall", recall(truth, gone["row"]))
        bench.results.add("pass", "tunesmith", setting, "copies_precision", precision(truth, gone))
        bench.results.write()
    _show_pass(bench)


def _families(truth: Sequence[tuple[str, int]]) -> list[int]:
    return [row if of < 0 else of for row, (_, of) in enumerate(truth)]


def recall(truth: Sequence[tuple[str, int]], gone: Iterable[int]) -> float:
    """Of the rows that are one too many, how many went."""
    family = _families(truth)
    without = set(gone)
    left = Counter(name for row, name in enumerate(family) if row not in without)
    planted = len(family) - len(set(family))
    return 1 - sum(count - 1 for count in left.values()) / max(planted, 1)


def precision(truth: Sequence[tuple[str, int]], gone: pl.DataFrame) -> float:
    """Of the rows that went for another one, how many went for one of their own family."""
    family = _families(truth)
    pairs = gone.select("row", "amount").rows()
    return float(sum(family[row] == family[partner] for row, partner in pairs)) / max(len(pairs), 1)


def _show_pass(bench: Bench) -> None:
    metrics = ("mb_per_s", "seconds", "rss_gb", "copies_recall", "copies_precision", "mails_left")

    def found(megabytes: int, metric: str) -> list[float]:
        return bench.results.runs("pass", "tunesmith", f"{megabytes} MB", metric)

    lines = [
        (f"{size} MB", *(spread(found(size, metric), 3 if "copies" in metric else 1) for metric in metrics))
        for size in bench.megabytes
    ]
    print("\n" + table(("tunesmith", *metrics), lines) + "\n")
    small, large = bench.megabytes[0], bench.megabytes[-1]
    verdict("MB/s of the whole pass", found(large, "mb_per_s"), WANTED_SPEED)
    verdict("... the stretch", found(large, "mb_per_s"), STRETCH)
    verdict("recall of planted copies", found(large, "copies_recall"), 0.98)
    verdict("precision of planted copies", found(large, "copies_precision"), 0.98)
    verdict_within("planted mails that are left", max(found(large, "mails_left")), 0)
    verdict_within("GB of memory", max(found(large, "rss_gb")), MOST_GB)
    growth = max(found(large, "seconds")) / min(found(small, "seconds")) / (large / small)
    verdict_within(f"seconds a MB at {large} MB against {small} MB", growth, MOST_GROWTH)


# ------------------------------------------------------------------------------------------------- the others


def _datatrove_python() -> str:
    return os.environ.get("TUNESMITH_BENCH_DATATROVE") or "no-python"


def datatrove(bench: Bench) -> None:
    """The same steps by datatrove, and ours over the same part right after it."""
    python = _datatrove_python()
    if not version_in(python, "datatrove"):
        bench.results.note("datatrove is left out: $TUNESMITH_BENCH_DATATROVE names no Python that has it")
        return
    for megabytes in bench.peer_megabytes:
        _side_by_side(bench, python, megabytes)
    bench.results.write()


def _side_by_side(bench: Bench, python: str, megabytes: int) -> None:
    setting, corpus = f"{megabytes} MB", bench.corpus(megabytes)
    size = sum(path.stat().st_size for path in corpus.glob("*.jsonl")) / 1e6
    script = str(ROOT / "benchmarks" / "peers" / "datatrove_run.py")
    for _ in range(bench.runs):
        with tempfile.TemporaryDirectory(dir=bench.folder) as out:
            theirs = _child([python, script, str(corpus), out, str(available_cores())])
        figures, _ = _ours(bench, megabytes)
        for system, found in (("datatrove", theirs), ("tunesmith", figures)):
            bench.results.add("same steps", system, setting, "mb_per_s", size / float(str(found["seconds"])))
        bench.results.write()
    speeds = {
        system: bench.results.runs("same steps", system, setting, "mb_per_s") for system in ("tunesmith", "datatrove")
    }
    print("\n" + table((setting, "MB/s"), [(system, spread(runs, 1)) for system, runs in speeds.items()]) + "\n")
    verdict(
        "times faster than datatrove, the same steps on the same rows",
        [one / other for one, other in zip(speeds["tunesmith"], speeds["datatrove"], strict=False)],
        WANTED_RATIO,
    )


def near_recall(bench: Bench) -> None:
    """Near duplicates of one sample by both."""
    corpus = bench.corpus(SAMPLE_MEGABYTES)
    truth = json.loads(truth_of(corpus).read_text("utf-8"))
    joined = bench.folder / "sample.jsonl"
    joined.write_bytes(b"".join(path.read_bytes() for path in sorted(corpus.glob("*.jsonl"))))
    module = "benchmarks.peers.datasketch_near"
    theirs = _child([sys.executable, "-m", module, str(joined), str(THRESHOLD)])
    _, ledger = _ours(bench, SAMPLE_MEGABYTES)
    fates = pl.read_parquet(ledger)
    ours = fates.filter(pl.col("reason").str.contains("duplicate"))["row"]
    gone = theirs["gone"]
    assert isinstance(gone, list)
    setting = f"{SAMPLE_MEGABYTES} MB"
    figures = {"tunesmith": recall(truth, ours), "datasketch": recall(truth, gone)}
    for system, value in figures.items():
        bench.results.add("recall", system, setting, "copies_recall", value)
    print("\n" + table((setting, "recall"), [(name, f"{value:.4f}") for name, value in figures.items()]) + "\n")
    verdict("recall against datasketch's", [figures["tunesmith"] - figures["datasketch"]], 0.0)
    bench.results.write()


def steps(bench: Bench) -> None:
    """Each step alone on one thread, over one piece."""
    path = bench.corpus(STEP_MEGABYTES) / "corpus-0.jsonl"
    size = path.stat().st_size
    read = Piece(0, path, 0, size, size), SourceSpec(path=str(path)), Reading("text", None, 42)
    frame = read_piece(*read, Ledger())
    shingled = shingle(frame["text"])
    found = signatures(shingled)
    ledger = Ledger()
    ledger.read("corpus", len(frame))
    personal = PersonalData(PiiSpec())
    timed: dict[str, Callable[[], object]] = {
        "read": lambda: read_piece(*read, Ledger()),
        "mojibake": lambda: repair_encoding(frame, RepairSpec(rules=["mojibake"]), ledger),
        "normalize": lambda: normalize(frame),
        "personal data": lambda: personal.search(frame, ledger),
        "shingles": lambda: shingle(frame["text"]),
        "signatures": lambda: signatures(shingled),
        "bands": lambda: band_keys(found, Bands.for_threshold(THRESHOLD)),
    }
    for step, work in timed.items():
        for _ in range(max(3, bench.runs)):
            began = time.perf_counter()
            work()
            bench.results.add("steps", "tunesmith", step, "mb_per_s", size / 1e6 / (time.perf_counter() - began))
    lines = [(step, spread(bench.results.runs("steps", "tunesmith", step, "mb_per_s"))) for step in timed]
    print("\n" + table(("one thread", "MB/s"), lines) + "\n")
    bench.results.write()


CASES: dict[str, Callable[[Bench], None]] = {
    "steps": steps, "pass": whole_pass, "datatrove": datatrove, "recall": near_recall,
}  # fmt: skip


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--megabytes", action="append", type=int, help="sizes of the pass (default 200 and 2000)")
    parser.add_argument("--peer-megabytes", action="append", type=int, help=f"... beside datatrove ({PEER_MEGABYTES})")
    parser.add_argument("--runs", type=int, default=3, help="runs of everything (default 3)")
    parser.add_argument("--folder", type=Path, help="where the corpora are made and stay; default: a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS / "data.json", help="where the figures go")
    return parser.parse_args(given)


def main() -> None:
    """Measure what is asked for, print all that is known, write."""
    asked = _arguments()
    stated = os.environ.get("TUNESMITH_SHARED_DATA")
    if not stated or not Path(stated).is_dir():
        raise SystemExit("TUNESMITH_SHARED_DATA names no folder of data sets: nothing was measured")
    results = Results(asked.out)
    others = {**dict.fromkeys(("polars", "pyarrow", "datasketch"), sys.executable), "datatrove": _datatrove_python()}
    for name, python in others.items():
        if number := version_in(python, name):
            results.version(name, number)
    results.keep_earlier()
    print(results.headline())
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        sizes = tuple(asked.megabytes or MEGABYTES), tuple(asked.peer_megabytes or [PEER_MEGABYTES])
        bench = Bench(Path(stated), folder, results, *sizes, asked.runs)
        for case in asked.case or CASES:
            print(f"\n=== {case}", flush=True)
            CASES[case](bench)
    results.write()
    print(f"\nfigures: {asked.out}")


if __name__ == "__main__":
    main()
