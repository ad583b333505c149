"""The faults of scripts/faults.py, each in its small size."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module("faults")


def test_faults_keep_their_promises():
    """In a process of its own: workers are forked, which a process that has used JAX must not do."""
    words = [sys.executable, str(SCRIPTS / "faults.py"), "--small"]
    done = subprocess.run(words, text=True, capture_output=True, timeout=900, check=False)
    rows = [line.split()[0] for line in done.stdout.splitlines()]
    assert (done.returncode, rows) == (0, ["F1", "F4", "F7", "F9", "F18", "submitit"]), done.stdout + done.stderr


def test_main_prints_rows_and_says_whether_one_breaks_its_promise(faults, monkeypatch, capsys):
    row = faults.Row()
    row.count("lost", 1, most=0)
    row.count("by", "hand")
    row.count("nothing", float("nan"), least=0)
    monkeypatch.setattr(faults, "FAULTS", {"F1": lambda folder, small: row, "F2": lambda folder, small: faults.Row()})
    assert faults.main(["F2"]) == 0
    assert faults.main(["--small"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["F2", "F1", "F2"]
    assert lines[1].startswith("F1 lost=1 by=hand nothing=nan s=")
    assert lines[1].endswith("BROKEN: lost, nothing")
    with pytest.raises(SystemExit):
        faults.main(["F3"])
    assert "unknown faults F3; choose among F1, F2" in capsys.readouterr().err
