"""That what starts many processes is what schedulers read, and that the template for ssh does start them."""

import importlib
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jaxprune import processes

ROOT = Path(__file__).parents[1]
COMMAND = """python -c 'print("a b")' --out "$PWD/x" """


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "launch"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module("render")


def made(render, capsys, *words):
    assert render.main([*words]) == 0
    return capsys.readouterr().out


def test_render_makes_what_jobset_reads(render, capsys):
    (job,) = yaml.safe_load(made(render, capsys, "jobset", "--hosts", "4", "--command", COMMAND))["spec"][
        "replicatedJobs"
    ]
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (4, 4)
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c", COMMAND]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}


def test_render_makes_what_sky_reads(render, capsys):
    task = yaml.safe_load(made(render, capsys, "sky", "--hosts", "3", "--command", "python train.py"))
    assert task["num_nodes"] == 3
    subprocess.run(["bash", "-n", "-c", task["run"]], check=True)
    environment = {
        **os.environ,
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
    }
    script = task["run"].replace("python train.py", "echo $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID")
    said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert said == "10.0.0.1:8476 2 1\n"


def test_render_makes_what_slurm_and_bash_read(render, capsys, tmp_path):
    for name in ("slurm", "ssh"):
        script = tmp_path / name
        script.write_text(made(render, capsys, name, "--command", COMMAND))
        subprocess.run(["bash", "-n", script], check=True)
    # What srun gets is the command, in one word.
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "${@: -1}"\n')
    (tmp_path / "srun").chmod(stat.S_IRWXU)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(["bash", tmp_path / "slurm"], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == COMMAND + "\n"


def test_render_refuses_in_words(render, capsys):
    for words, message in (
        (["--command", " "], "command: expected one line"),
        (["--command", "x", "--hosts", "0"], "hosts, chips, port: expected whole numbers above 0"),
    ):
        with pytest.raises(SystemExit):
            render.main(["ssh", *words])
        assert message in capsys.readouterr().err


def test_start_reads_who_is_there_from_the_environment_of_the_template(render, capsys, tmp_path):
    """With ``ssh`` that starts its command on this machine, two processes find each other."""
    program = tmp_path / "program.py"
    program.write_text(
        "import jaxprune as jp\njp.processes.start(limit=600)\n"
        "open(f'came{jp.processes.index()}', 'w').write(str(jp.processes.count()))\n"
        "jp.processes.meet('end')\n"
    )
    (tmp_path / "ssh").write_text('#!/bin/bash\nexec bash -c "$2"\n')
    (tmp_path / "ssh").chmod(stat.S_IRWXU)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script, command = tmp_path / "job.sh", f"{sys.executable} 'program.py'"
    words = ["ssh", "--command", command, "--folder", str(tmp_path), "--port", str(port)]
    script.write_text(made(render, capsys, *words))
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        ["bash", script, "localhost", "localhost"], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"came{index}").read_text() for index in (0, 1)] == ["2", "2"]


def test_start_refuses_half_an_environment(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match=r"JAX_COORDINATOR_ADDRESS.*or none of them"):
        processes.start()
