"""The resume certificate: a real SIGKILL, a resume, equal bytes, and a page in both languages."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny_project import write_tiny_recipe
from typer.testing import CliRunner

from tunesmith import lifecycle, proof
from tunesmith.cli.main import app
from tunesmith.cli.rehearse import command
from tunesmith.core.errors import TunesmithError
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.train import rehearse

if TYPE_CHECKING:
    from faults_tally import Tally


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> lifecycle.Work:
    """A trained run; nothing more is needed."""
    folder = tmp_path_factory.mktemp("certified")
    recipe = write_tiny_recipe(folder, tiny_chat_model(folder / "base", spread=0.1, context=2048), rows=(40, 4, 6))
    work = lifecycle.start(recipe, (), folder / "runs", ())
    for stage in (lifecycle.prepare_data, lifecycle.train):
        stage(work)
    return work


@pytest.mark.case("A1")
@pytest.mark.timeout(300)
def test_verify_resume_kills_resumes_and_certifies(
    work: lifecycle.Work, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user in place of a module')\n")
    monkeypatch.chdir(tmp_path)
    for _ in range(tally.amount(1, 5)):
        result = CliRunner().invoke(app, ["verify", str(work.path), "--resume", "--json"])
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)["resumed"]
        assert told["equal"] and not told["differing"] and told["figures_equal"]
        assert told["killed_after"] < told["steps"] == rehearse.STEPS
        assert told["resumed_from"] <= told["killed_after"] + 1
        tally.count("kills")
    page = (work.path / "resume_certificate.md").read_text("utf-8")
    proofs = json.loads((work.path / "resume_certificate.json").read_text("utf-8"))
    assert proofs["equal"] and proofs["proofs"]["kill"]["steps"] == rehearse.STEPS
    for words in ("Resume certificate", "续跑证明", "SIGKILL", "threads: 1", "torch: ", *told["sha256"].values()):
        assert page.count(words) >= (1 if words in ("Resume certificate", "续跑证明") else 2), words
    assert set(told["sha256"]) >= {"adapter_model.safetensors", "masters.safetensors", "optimizer.safetensors"}
    proof.verify(work, replay=False)  # the certificate itself is among the proven files
    assert not list(work.path.glob(".aside-*"))


TELLING = """
import json, os, sys
for step in range(1, int(sys.argv[1]) + 1):
    print(json.dumps({"kind": "step", "step": step}), flush=True)
"""


@pytest.mark.case("A1")
@pytest.mark.parametrize(
    ("ending", "stated"), [("sys.exit(3)", 3), ("sys.exit(0)", 0), ("os.kill(os.getpid(), 9)", -9)]
)
def test_no_certificate_for_a_process_that_we_did_not_kill(tmp_path: Path, ending: str, stated: int) -> None:
    """The process that was to be killed tells of one step only and ends by itself."""

    def start(folder: Path) -> list[str]:
        program, steps = (TELLING, "8") if folder.name == "whole" else (TELLING + ending, "1")
        return [sys.executable, "-c", program, steps]

    with pytest.raises(TunesmithError) as error:
        rehearse.rehearse(tmp_path, start, random.Random(1))
    assert (error.value.code, error.value.facts["code"]) == ("lifecycle.rehearsal_failed", stated)


@pytest.mark.case("A1")
def test_a_resume_that_comes_out_otherwise_is_told(work: lifecycle.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = command(work.path)

    def unlike(aside: Path, *_: object) -> rehearse.Rehearsal:
        assert honest(aside / "whole")[-1] == str(aside / "whole")
        return rehearse.Rehearsal(8, 2, 5, 0.1, 4, {}, ("masters.safetensors",), 9, True)

    monkeypatch.setattr(proof, "rehearse", unlike)
    with pytest.raises(TunesmithError) as error:
        proof.certify_kill(work, honest)
    assert error.value.code == "lifecycle.not_resumed" and error.value.facts["files"] == "masters.safetensors"
    assert "NOT EQUAL" in (work.path / "resume_certificate.md").read_text("utf-8")
    assert json.loads((work.path / "resume_certificate.json").read_text("utf-8"))["equal"] is False
