"""Measures what the README states about speed; prints one table and keeps every number in results/benchmark.json.

Every case runs in a process of its own: its peak memory is its own, its devices can be asked for before JAX starts, and
one that fails or takes too long leaves the others alone.  What could not be measured stands in the table, with the
reason.
"""

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from benchmark_rows import HEADER, Row

from jaxprune import files

CASES = {
    "masks": ["benchmark_masks:select", "benchmark_masks:sharded"],
    "structured": [
        "benchmark_structured:counts",
        "benchmark_structured:faster",
        "benchmark_structured:step",
        "benchmark_joint:vit",
    ],
    "discovered": [
        "benchmark_discovered:large",
        "benchmark_discovered:twelve_networks",
        "benchmark_discovered:faster",
        "benchmark_torch_pruning:side_by_side",
    ],
    "representation": ["benchmark_representation:integrated_gradients", "benchmark_representation:lost"],
    "rounds": ["benchmark_rounds:prices"],
    "heads": ["benchmark_heads:neighbours", "benchmark_heads:held", "benchmark_heads:ridge"],
    "safety": ["benchmark_safety:guarantee"],
    "pretrained": ["benchmark_pretrained:transformers", "benchmark_pretrained:residual"],
    "pipeline": ["benchmark_pipeline:decoding", "benchmark_pipeline:consumed"],
    "curvature": [
        "benchmark_curvature:products",
        "benchmark_curvature:units",
        "benchmark_curvature:layers",
        "benchmark_curvature:layers_deep",
        "benchmark_curvature:layers_many_classes",
        "benchmark_curvature:diagonal",
        "benchmark_plan:exact_plans",
        "benchmark_exact:vit",
        "benchmark_exact:resnet",
        "benchmark_exact:surgeon",
        "benchmark_exact:sweep",
        "benchmark_exact:bottleneck",
        "benchmark_exact:estimate",
        "benchmark_exact:compile_times",
        "benchmark_estimate:exact_coverage",
        "benchmark_estimate:exact_mean",
        "benchmark_large:resnet50",
        "benchmark_large:vit_b16",
        "benchmark_losses:own",
        "benchmark_memory:dense",
        "benchmark_memory:surgeon",
        "benchmark_memory:transformer",
        "benchmark_accelerator:resnet50",
        "benchmark_accelerator:vit_small",
    ],
}
PACKAGES = (
    "jaxprune",
    "jax",
    "jaxlib",
    "flax",
    "torch",
    "backpack-for-pytorch",
    "curvlinops-for-pytorch",
    "torch-pruning",
)
DEFAULTS = {
    # On an accelerator JAX would take most of the memory beforehand, and leave PyTorch little.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    # PyTorch's threads would spin where they wait: with others on the same cores that made it 20 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}
ROUNDS, QUICK_ROUNDS = 9, 3
LIMIT, QUICK_LIMIT = 1800.0, 300.0


def main() -> None:
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' or '.join(CASES)}; without one, all")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds in place of {ROUNDS}, less patience"
    )
    parser.add_argument("--only", default="", help="the cases whose name contains this; the others keep their rows")
    parser.add_argument("--limit", type=float, help=f"seconds for a case: {LIMIT:g}, or {QUICK_LIMIT:g} if quick")
    parser.add_argument("--cores", type=int, default=2, help="how many to use; 0: all (for accelerators)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.case:
        run_case(options.case, rounds)
        return
    unknown = set(options.parts) - set(CASES)
    if unknown:
        parser.error(f"PART: expected {' or '.join(CASES)}, but got {', '.join(sorted(unknown))}.")
    if options.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    limit = options.limit or (QUICK_LIMIT if options.quick else LIMIT)
    cases = [case for part in options.parts or CASES for case in CASES[part] if options.only in case]
    sys.stdout.write(HEADER)
    remarks: list[str] = []
    for case in cases:
        rows = []
        for row in measured(case, options.quick, limit):
            rows.append(row)
            remarks.append(row.remark())
            sys.stdout.write(row.line())
            sys.stdout.flush()
        keep(Path("results") / "benchmark.json", case, rows, rounds)
    sys.stdout.write("\n" + "".join(remarks))


def run_case(case: str, rounds: int) -> None:
    """Writes the rows of a case as they come, one JSON document to a line."""
    module, name = case.split(":")
    for row in getattr(importlib.import_module(module), name)(rounds):
        # Not before: a case may still choose its devices.
        row = dataclasses.replace(row, device=jax.devices()[0].device_kind)
        sys.stdout.write(json.dumps(dataclasses.asdict(row)) + "\n")
        sys.stdout.flush()


def measured(case: str, quick: bool, limit: float) -> Iterator[Row]:
    """Runs a case in a process of its own; what ends it early becomes a last row."""
    command = [sys.executable, __file__, "--case", case, *(["--quick"] if quick else [])]
    environment = DEFAULTS | os.environ
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or []))
        reader.start()
        clock = threading.Timer(limit, process.kill)
        clock.start()
        for line in process.stdout or []:
            if line.startswith('{"quantity"'):
                yield from_json(json.loads(line))
        process.wait()
        late = not clock.is_alive()
        clock.cancel()
        reader.join()
    if late:
        yield Row(f"{case}: the rest", missing=f"it took longer than {limit:g} s")
    elif process.returncode:
        last = errors[-1].strip() if errors else ""
        yield Row(f"{case}: the rest", missing=f"it ended with status {process.returncode}: {last}"[:300])


def from_json(fields: dict[str, Any]) -> Row:
    """Makes the row that ``dataclasses.asdict`` took apart.

    >>> row = Row("product", (0.5, 0.25), gradients=(2.0, 1.0), at_most=1.5)
    >>> from_json(json.loads(json.dumps(dataclasses.asdict(row)))) == row
    True
    """
    return Row(**{**fields, "values": tuple(fields["values"]), "gradients": tuple(fields["gradients"])})


def keep(path: Path, case: str, rows: list[Row], rounds: int) -> None:
    """Puts the rows of a case into the file, beside those of other cases."""
    path.parent.mkdir(exist_ok=True)
    cases = json.loads(path.read_text())["cases"] if path.exists() else {}
    entry = {
        "rows": [{**dataclasses.asdict(row), "met": row.met, "disturbed": row.disturbed} for row in rows],
        "rounds": rounds,
    }
    cases[case] = {**entry, "versions": versions(), "cores": cores()}
    files.write_json(path, {"cases": cases})


def cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0


def versions() -> dict[str, str]:
    """Returns the versions of the packages that take part and are installed."""
    installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}


if __name__ == "__main__":
    main()
