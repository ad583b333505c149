"""Faults of several processes of one JAX program: kills, damaged checkpoints whose parts they wrote, SIGTERMs."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import jaxprune as jp
from jaxprune import checkpoint

ROOT = Path(__file__).parents[1]
DEVICES, HEARTBEAT = 4, 10
"""Of all processes together; seconds after which JAX takes a process that is not heard of for dead."""

_TRAIN = f"""
import hashlib, os, sys, time
import jax
address, (count, index), folder = sys.argv[1], map(int, sys.argv[2:4]), sys.argv[4]
steps, pause = int(sys.argv[5]), float(sys.argv[6])
jax.config.update("jax_num_cpu_devices", {DEVICES} // count)
if count > 1:
    jax.distributed.initialize(address, count, index, heartbeat_timeout_seconds={HEARTBEAT})
import numpy as np, jax.numpy as jnp, optax
import jaxprune as jp
from jaxprune import processes

def applied(params, state, images):
    return jax.nn.relu(images @ params["in"]) @ params["out"]

draw = np.random.default_rng(0)
weights = {{"in": draw.normal(size=(6, 8)), "out": draw.normal(size=(8, 4))}}
data = {{"image": draw.normal(size=(24, 6)).astype(np.float32), "label": np.arange(24) % 4}}
lines = open(os.path.join(os.path.dirname(folder), f"lines-{{index}}"), "w", buffering=1)

def log(step, found):
    lines.write(f"{{step}}\\n")
    time.sleep(pause)

net = jp.Network(applied, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights))
placement = jp.mesh.Placement(jp.mesh.make(), split=True)
options = dict(batch_size=8, seed=0, placement=placement, log=log, log_every=1, save_every=2)
net = jp.train.fit(net, jp.losses.cross_entropy, optax.adam(1e-2), data, steps=steps, folder=folder, **options)
found = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(processes.read(net.params)))
lines.write(f"done {{hashlib.sha256(found).hexdigest()}}\\n")
"""


class Group:
    """Some processes that train together; ended, whatever happens, when the context does."""

    def __init__(self, folder: Path, count: int, steps: int, pause: float = 0.0) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._lines = [folder.parent / f"lines-{place}" for place in range(count)]
        for path in self._lines:
            path.unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        words = [sys.executable, "-c", _TRAIN, address, str(count)]
        rest = [str(folder), str(steps), str(pause)]
        self.processes = [
            subprocess.Popen([*words, str(place), *rest], env=environment, cwd=ROOT, **quiet) for place in range(count)
        ]

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def said(self, place: int) -> list[str]:
        """The steps that a process has taken; at last "done" and the hash of the weights."""
        with contextlib.suppress(FileNotFoundError):
            return self._lines[place].read_text().split("\n")[:-1]
        return []

    def reach(self, count: int, limit: float = 300.0) -> None:
        """Waits until so many steps are taken, or a process has ended."""
        end = time.monotonic() + limit
        while len(self.said(0)) < count and not any(one.poll() is not None for one in self.processes):
            if time.monotonic() > end:
                raise TimeoutError(f"no {count} steps within {limit:g} s")
            time.sleep(0.01)

    def wait(self, limit: float = 300.0) -> list[int | None]:
        """Waits until all have ended; their exit codes, None of one that has not."""
        end = time.monotonic() + limit
        for one in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(max(0.0, end - time.monotonic()))
        return [one.poll() for one in self.processes]


def _straight(folder: Path, count: int, steps: int) -> tuple[str, str]:
    """What training without a fault ends with: the hash of the weights, and the metrics of all steps."""
    with Group(folder, count, steps) as group:
        group.wait()
        return _end(group, folder)


def _end(group: Group, folder: Path) -> tuple[str, str]:
    (digest,) = {group.said(place)[-1] for place in range(len(group.processes))}
    return digest, (folder / "metrics.jsonl").read_text()


def kills(folder: Path, row: Any, small: bool) -> None:
    """F12: one of two processes is killed, again and again; what goes on takes the same steps."""
    wanted, steps, source = (1, 30, random.Random(0)) if small else (10, 150, random.Random(0))
    killed, hung, slowest = 0, 0, 0.0
    while killed < wanted:
        with Group(folder / "killed" / "run", 2, steps, 0.05) as group:
            group.reach(source.randrange(3, 9))
            time.sleep(source.uniform(0.0, 0.1))
            victim = source.randrange(2)
            group.processes[victim].kill()
            killed, begin = killed + 1, time.monotonic()
            code = group.wait(HEARTBEAT + 5)[1 - victim]
            hung += code is None or code == 0
            slowest = max(slowest, time.monotonic() - begin)
    with Group(folder / "killed" / "run", 2, steps) as group:
        group.wait()
        same = _end(group, folder / "killed" / "run") == _straight(folder / "straight" / "run", 2, steps)
    row.count("kills", killed, least=wanted)
    row.count("hung", hung, most=0)
    row.count("survivor_s", f"{slowest:.1f}")
    row.count("same_bytes", int(same), least=1)
    row.count("leftovers", sum(path.name.startswith(".tmp-") for path in (folder / "killed" / "run").iterdir()), most=0)


def stops(folder: Path, row: Any, small: bool) -> None:
    """F14: one of 1, 2 or 4 processes gets SIGTERM; all stop after one step, and what goes on takes the same steps."""
    source, plan = random.Random(0), {2: 1} if small else {1: 7, 2: 7, 4: 6}
    sent, apart, codes, different, lost = 0, 0, 0, 0, 0
    for count, wanted in plan.items():
        steps, place = 600, folder / str(count) / "run"
        for _ in range(wanted):
            with Group(place, count, steps, 0.02) as group:
                group.reach(source.randrange(2, 9))
                time.sleep(source.uniform(0.0, 0.05))
                group.processes[source.randrange(count)].terminate()
                sent += 1
                codes += group.wait() != [143] * count
                last = {group.said(one)[-1] for one in range(count)}
                apart += len(last) > 1
                lost += str(checkpoint.steps(place)[-1]) not in last
        with Group(place, count, steps) as group:
            group.wait()
            different += _end(group, place) != _straight(folder / f"straight-{count}" / "run", count, steps)
    row.count("signals", sent, least=sum(plan.values()))
    row.count("of_processes", ",".join(map(str, plan)))
    row.count("other_codes", codes, most=0)
    row.count("apart", apart, most=0)
    row.count("not_saved", lost, most=0)
    row.count("different", different, most=0)


# ---------------------------------------------------------------------------------------------- damaged checkpoints


def _flip(source: random.Random, path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)
    path.write_bytes(bytes(raw))


def _damage(source: random.Random, older: Path, newest: Path, kind: str) -> None:
    """Does one thing to the newest checkpoint, or to both."""
    parts = sorted(path for path in newest.iterdir() if path.name.startswith("part-"))
    one, manifest = source.choice(parts), newest / "manifest.json"
    if kind == "cut":
        one.write_bytes(one.read_bytes()[: source.randrange(one.stat().st_size)])
    elif kind == "flip":
        _flip(source, one)
    elif kind == "flip manifest":
        _flip(source, manifest)
    elif kind == "delete":
        one.unlink()
    elif kind == "part of the older step":
        shutil.copy(older / one.name, one)
    elif kind == "parts of the older step":
        for path in parts:
            shutil.copy(older / path.name, path)
    elif kind == "manifest of the older step":
        shutil.copy(older / manifest.name, manifest)
    elif kind == "older step under the name of the newest":
        for path in newest.iterdir():
            shutil.copy(older / path.name, path)
    elif kind == "exchanged parts":
        first, second = (newest / f"part-{place}.{source.choice(['bin', 'json'])}" for place in (0, 1))
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    elif kind == "other step in the manifest":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "step": 7}))
    elif kind == "a part more":
        shutil.copy(one, newest / one.name.replace("part-", "part-1"))
    else:  # both
        for path in (one, older / one.name):
            _flip(source, path)


KINDS = (
    *("cut", "flip", "flip manifest", "delete", "part of the older step", "parts of the older step"),
    *("manifest of the older step", "older step under the name of the newest", "exchanged parts"),
    *("other step in the manifest", "a part more", "both"),
)


def damaged(folder: Path, row: Any, small: bool) -> None:
    """F13: checkpoints that two processes wrote are cut, flipped, mixed; each is refused, or an older one is used."""
    source, faults = random.Random(0), 24 if small else 100
    _straight(folder / "made" / "run", 2, 4)
    made = folder / "made" / "run"
    whole = {}
    shapes = {"in": (6, 8), "out": (8, 4)}
    for step in checkpoint.steps(made):
        alone = folder / f"alone-{step}"
        shutil.copytree(made / f"{step:08d}", alone / f"{step:08d}")
        whole[step] = _restored(alone, shapes)
    older, newest = sorted(whole)
    counts = dict.fromkeys(("whole", "older", "refused", "wrong"), 0)
    for number in range(faults):
        place = folder / "damaged"
        shutil.copytree(made, place)
        _damage(source, place / f"{older:08d}", place / f"{newest:08d}", KINDS[number % len(KINDS)])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                found = _restored(place, shapes)
                names = {newest: "whole", older: "older"}
                right = found == whole.get(found[0]) and (found[0] == newest or "is damaged" in str(told[0].message))
                counts[names[found[0]] if right else "wrong"] += 1
            except ValueError as error:
                counts["refused" if "damaged" in str(error) else "wrong"] += 1
        shutil.rmtree(place)
    row.count("faults", faults)
    row.count("kinds", len(KINDS))
    for name, value in counts.items():
        row.count(name, value, most=0 if name == "wrong" else faults)


def _restored(folder: Path, shapes: dict[str, Sequence[int]]) -> tuple[int, str]:
    """The step, and the bytes, of what a folder is restored to."""
    net = jp.Network(lambda params, state, images: images, {n: np.zeros(s, np.float32) for n, s in shapes.items()})
    like = jax.tree.map(np.asarray, (net, optax.adam(1e-2).init(net.params)))
    step, found = checkpoint.restore(folder, like) or (0, like)
    return step, b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)).hex()
