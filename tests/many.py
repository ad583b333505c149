"""Several processes of JAX on this machine, each with devices of its own, that run one script together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests import haste

ROOT = str(Path(__file__).parents[1])
LIMIT = 600
"""Seconds that processes wait for each other: other tests may have the machine."""

_BEGIN = f"""
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
jax.config.update("jax_enable_x64", True)
from jaxprune import processes
processes.start(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), limit={LIMIT})
"""


def address() -> str:
    """Finds a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def run(
    folder: Path, script: str, count: int = 2, devices: int = 2, lost: int | None = None, code: int = 0
) -> list[str]:
    """Runs a script in some processes that know of each other, and returns what each wrote.

    Where one fails the others are ended, and its errors are raised; but ``lost`` has to be killed, and all have to end
    with ``code`` by themselves.
    """
    path, where = folder / "process.py", address()
    path.write_text(_BEGIN + script)
    environment = {**os.environ, "PYTHONPATH": ROOT, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": haste.FLAGS}
    words = [sys.executable, str(path), where, str(count)]
    # To files: a pipe that nobody reads is soon full.
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context((folder / f"output-{place}").open("w+")) for place in range(count)]
        errors = [stack.enter_context((folder / f"errors-{place}").open("w+")) for place in range(count)]
        started = [
            subprocess.Popen(
                [*words, str(place), str(devices)],
                stdout=outputs[place],
                stderr=errors[place],
                env=environment,
                cwd=ROOT,
            )
            for place in range(count)
        ]
        end = time.monotonic() + LIMIT + 300
        while time.monotonic() < end and any(process.poll() is None for process in started):
            if not code and any(process.poll() for process in started):
                break
            time.sleep(0.1)
        for process in started:
            process.kill()
            process.wait()
    if lost is not None:
        assert started[lost].returncode == -signal.SIGKILL, (folder / f"errors-{lost}").read_text()[-3000:]
        return [(folder / f"output-{place}").read_text() for place in range(count)]
    for place, process in enumerate(started):
        assert process.returncode == code, (folder / f"errors-{place}").read_text()[-3000:]
    return [(folder / f"output-{place}").read_text() for place in range(count)]
