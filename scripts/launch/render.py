"""Writes what starts one program on many hosts, from the template of a scheduler.

    python scripts/launch/render.py jobset --hosts 4 --command "python train.py" --image IMAGE > job.yaml
    python scripts/launch/render.py slurm --hosts 2 --command "python train.py" > job.sh

The program calls ``jp.processes.start()`` before anything else of JAX.  A study (``python -m experiments.transfer``)
does so by itself, and is done by all hosts together; they have to share its folder.

Written for the schedulers' own documentation, and checked as text; the one for ssh was run with two processes on one
machine.  None was run on a TPU.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from string import Template

TEMPLATES = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.*")) if path.suffix in (".yaml", ".sh")}


def rendered(name: str, settings: argparse.Namespace) -> str:
    """Fills in a template.

    Raises:
      ValueError: settings that it cannot hold.
    """
    if settings.hosts < 1 or settings.chips < 1 or not 0 < settings.port < 2**16:
        raise ValueError("hosts, chips, port: expected whole numbers above 0, and a port below 65536.")
    if not settings.command.strip() or "\n" in settings.command:
        raise ValueError(f"command: expected one line, such as 'python train.py', but got {settings.command!r}.")
    quoted = shlex.quote(settings.command)
    words = {
        "command_json": json.dumps(settings.command),
        "command_quoted": quoted,
        "command_twice": shlex.quote(quoted),
    }
    return Template(TEMPLATES[name].read_text()).substitute(vars(settings) | words)


def main(words: list[str]) -> int:
    """Writes to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scheduler", choices=list(TEMPLATES))
    parser.add_argument("--command", required=True, help="what every host runs")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--name", default="jaxprune")
    parser.add_argument("--folder", default=".", help="where it runs, on every host")
    parser.add_argument("--accelerator", default="tpu-v5-lite-podslice", help="as the scheduler calls it")
    parser.add_argument("--topology", default="4x4", help="of the slice (JobSet)")
    parser.add_argument("--chips", type=int, default=4, help="of a host")
    parser.add_argument("--image", default="jaxprune:latest", help="of the container (JobSet)")
    parser.add_argument("--extra", default="tpu", choices=("tpu", "cuda"), help="of the installation (SkyPilot)")
    parser.add_argument("--port", type=int, default=8476, help="of process 0 (SkyPilot, ssh)")
    settings = parser.parse_args(words)
    try:
        sys.stdout.write(rendered(settings.scheduler, settings))
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
