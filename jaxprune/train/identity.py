"""What a folder of checkpoints is of: one hash for each part of a run, in its ``run.json``.

Numbers are told apart by their bytes, functions by the programs that JAX traces of them.  So learning rates, schedules
and what a closure holds are told apart, and equal functions that were made twice are not.  What cannot be told: what no
program shows, such as the code and the hidden state of host callbacks (``jax.pure_callback``), and numbers that JAX
computes otherwise on another device.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import checkpoint, files, processes, tree
from jaxprune.data.streaming import Stream
from jaxprune.network import Network
from jaxprune.optim import without_masks
from jaxprune.train import programs
from jaxprune.train.beginning import abstract_batch, abstract_key
from jaxprune.train.stepping import Functions, augmentation_key, forward, step

_NAME = "run.json"
_FORMAT = 1


def parts(
    network: Network, optimizer: Any, data: Mapping[str, Any], functions: Functions, batch_size: int, seed: int
) -> dict[str, Any]:
    """Describes a run: {"values": {part: hash or number}, "programs": {part: hash}, "inputs": hash}.

    Programs of inputs of other shapes are others, though the functions be the same; so those are told too.

    Args:
      network: where training begins.
      optimizer: the state of the transformation there.
      data: of which the batches are.
      functions: what a step is made of.
      batch_size: examples in a batch.
      seed: of the order and the keys.
    """
    rest, masks = without_masks(optimizer)
    values = {
        "start": _digest((network.params, network.state)),
        "mask": _digest(masks),
        "initial state of tx": _digest(rest),
        "data": _digest_data(data),
        "batch_size": int(batch_size),
        "seed": int(seed),
        "rngs": list(functions.rngs),
    }
    batch = abstract_batch(data, batch_size)
    shapes = jax.tree.map(lambda leaf: f"{np.shape(leaf)}{leaf.dtype}", (network.params, network.state, rest, batch))
    inputs = [*jax.tree.leaves(shapes), bool(masks), functions.rngs]
    return {
        "values": values,
        "programs": _programs(network, optimizer, batch, functions),
        "inputs": hashlib.sha256(repr(inputs).encode()).hexdigest(),
    }


def settled(root: Path | None, now: dict[str, Any], *, together: bool) -> None:
    """Checks that several processes do one run, if they do it together; and settles whose the folder is.

    Raises:
      ValueError: processes differ, on all of them; or as ``settle`` does.
    """
    if not together:
        if root is not None:
            settle(root, now)
        return
    for name, value in {**now["values"], **now["programs"], "jax": jax.__version__}.items():
        processes.agree(name, value)
    if root is not None:
        processes.first(lambda: settle(root, now), what="folder")


def settle(root: Path, now: dict[str, Any]) -> None:
    """Checks that the checkpoints in a folder, if there are any, are of this run; else the folder becomes that of it.

    Raises:
      ValueError: they are of another run (the message names the parts that differ), or nobody can tell.

    Warns:
      UserWarning: another version of JAX wrote them, so that programs cannot be compared.
    """
    now = {"format": _FORMAT, "jax": jax.__version__, **now}
    if checkpoint.steps(root):
        written = _read(root)
        if written == now:
            return
        differing = _differing(written, now)
        if differing:
            raise ValueError(
                f"folder: {str(root)!r} holds a run with {', '.join(differing)}. Choose another folder, or what that "
                "run had."
            )
        _warn(root, written["jax"])
    files.write_json(root / _NAME, now)


def _read(root: Path) -> dict[str, Any]:
    path = root / _NAME
    try:
        written = json.loads(path.read_text())
        if written["format"] != _FORMAT:
            raise ValueError(f"its format is {written['format']!r}, not {_FORMAT}")
        _ = written["jax"], written["inputs"], dict(written["values"]), dict(written["programs"])
    except FileNotFoundError:
        raise ValueError(
            f"folder: {str(root)!r} holds checkpoints of an earlier version of jaxprune, without {_NAME}: of which "
            "start, mask, loss and data they are cannot be told. Choose another folder."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"folder: {str(path)!r} cannot be read ({error}), so of which run the checkpoints are cannot be told. "
            "Choose another folder."
        ) from error
    return written


def _differing(written: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Says which parts differ, by the names of the arguments of ``fit``."""
    found = [
        f"{'other' if name in ('data', 'rngs') else 'another'} {name}"
        + ("" if isinstance(value, str) else f" ({written['values'].get(name)}, not {value})")
        for name, value in now["values"].items()
        if written["values"].get(name) != value
    ]
    if written["inputs"] != now["inputs"]:
        return found or ["numbers of another precision (jax_enable_x64)"]
    if written["jax"] != now["jax"]:
        return found
    others = [name for name, value in now["programs"].items() if written["programs"].get(name) != value]
    if "augment" in others:  # what comes after it may see other shapes
        others = [name for name in others if name not in ("network", "loss")]
    # The step holds all the rest: it says something of its own only where that is the same.
    if others == ["step"] and not found:
        return ["another derivative of loss or network, or another version of jaxprune"]
    return found + [f"another {name}" for name in others if name != "step"]


def _warn(root: Path, version: str) -> None:
    warnings.warn(
        f"The checkpoints in {str(root)!r} were written with jax {version}, and this is jax {jax.__version__}, whose "
        "programs are others: whether loss, tx, network and augment are those of that run is not checked. The rest is.",
        stacklevel=4,
    )


def _programs(network: Network, optimizer: Any, batch: Mapping[str, Any], functions: Functions) -> dict[str, str]:
    key = abstract_key()
    augment, found = functions.augment, {"augment": "none"}
    # The whole, whose trace the first step finds in JAX's cache, shows the derivatives too.
    whole = step.trace(
        *(network, optimizer, dict(batch), key),
        **functions.static,
    )
    if augment is not None:
        found["augment"], batch = programs.traced(lambda batch, key: augment(batch, augmentation_key(key)), batch, key)

    def evaluated(params: Any, state: Any, images: Any, key: Any) -> Any:
        return forward(network.replace(state=state), params, images, key, functions.rngs)

    arguments = (network.params, network.state, batch["image"], key)
    found["network"], (outputs, _) = programs.traced(evaluated, *arguments)
    found["loss"], _ = programs.traced(functions.loss, outputs, batch)
    return {**found, "tx": programs.digest(functions.program), "step": programs.digest(whole.jaxpr)}


def _digest(values: Any) -> str:
    """Hashes the names, types, shapes and bytes of the leaves of a tree."""
    total = hashlib.sha256()
    for name, leaf in tree.by_name(values).items():
        _add(total, name, processes.read(leaf))
    return total.hexdigest()


def _digest_data(data: Mapping[str, Any]) -> str:
    total = hashlib.sha256()
    for name, entry in sorted(data.items()):
        if isinstance(entry, Stream):
            total.update(f"{len(name)}:{name}:stream:{entry.fingerprint()};".encode())
        else:
            _add(total, name, np.asarray(entry))
    return total.hexdigest()


def _add(total: Any, name: str, array: np.ndarray) -> None:
    total.update(f"{len(name)}:{name}:{array.dtype}{array.shape};".encode())
    # As bytes, since not every type of numbers has a buffer; without a copy, since data are large.
    total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
