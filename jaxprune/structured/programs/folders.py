"""Any network on disk, without its source: its program as JSON, its weights as safetensors beside it.

program.json           what is computed, of which arrays, and the SHA-256 of both files
weights.safetensors    every leaf by its name, "params/..." and "state/...", and arrays of the program, "constants/..."
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxprune import check, files, tree
from jaxprune.network import Network
from jaxprune.structured.programs import networks
from jaxprune.structured.programs.networks import Written
from jaxprune.structured.programs.values import STORED, Unknown
from jaxprune.structured.sealed import WEIGHTS, opened, seal

PROGRAM = "program.json"
_FORMAT, _VERSION = "jaxprune program", 1
_PARTS = ("format", "version", "jax", "image", "rngs", "params", "state", "constants", "apply", "train")
_LONGEST = 500_000_000


def save_program(
    folder: str | os.PathLike[str], network: Network, images: Any, *, rngs: Collection[str] = ("dropout",)
) -> Path:
    """Saves any network, so that it can be loaded without the code that made it.

    What is saved is the program that JAX traces of its function: primitives, parameters and numbered values as JSON, no
    pickle and nothing that could run.  It is of these shapes and types, and of any number of images: sizes may grow in
    proportion to it.  Derivative rules of functions of its own (``jax.custom_jvp``, ``jax.custom_vjp``) are saved as
    what they compute, so a loaded network is differentiated as the one that was saved.  ``train_apply`` is saved too.

    Where ``jp.structured.export`` writes one opaque file to serve, without forward derivatives and ``vmap``, this is a
    network again for everything in jaxprune.

    Args:
      folder: made where it is missing.
      network: pure; its parameters and state are dictionaries, lists or tuples of arrays.
      images: [b, ...], or a ``jax.ShapeDtypeStruct``: only shape and type matter.
      rngs: names of the random streams of ``train_apply``, as in ``jp.train.fit``.

    Returns:
      The folder.

    Raises:
      ValueError: the folder cannot be written; the program holds what the format does not (callbacks and other effects,
        parameters that are functions or placements, a primitive that is not JAX's own), named with its place; it
        depends on the number of images otherwise than by sizes; read back, it does not give the network's outputs.

    >>> import tempfile
    >>> net = Network(lambda p, s, x: jax.nn.relu(x @ p["w"]), {"w": np.ones((3, 2), np.float32)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loaded = load_program(save_program(folder, net, np.ones((1, 3), np.float32)))
    >>> loaded(np.ones((4, 3), np.float32)).shape
    (4, 2)
    """
    check.network(network)
    check.takes(network, images, "images")
    image = jax.ShapeDtypeStruct(np.shape(images)[1:], jnp.result_type(images))
    trees = {where: networks.described(where, part) for where, part in _trees(network).items()}
    document, constants = _written(network, image, sorted(rngs))
    arrays = {}
    for where, part in _trees(network).items():
        arrays |= {f"{where}/{name}": np.asarray(leaf) for name, leaf in tree.by_name(part).items()}
    arrays |= {f"constants/{place}": one for place, one in enumerate(constants)}
    root = check.writable("folder", folder)
    content = safetensors.numpy.save({name: _bits(array) for name, array in arrays.items()})
    document |= trees | {"constants": [[one.dtype.name, list(one.shape)] for one in constants]}
    document |= {"format": _FORMAT, "version": _VERSION, "jax": jax.__version__}
    body = {key: document[key] for key in _PARTS}
    text = json.dumps({"sha256": seal(_compact(body), content), **body}, separators=(",", ":"), allow_nan=False)
    _demand_same(network, _opened("folder", text, content), image, sorted(rngs))
    files.write(root / WEIGHTS, content)
    files.write(root / PROGRAM, text + "\n")
    return root


def load_program(folder: str | os.PathLike[str]) -> Network:
    """Loads a network that ``save_program`` wrote; nothing of a file is run but primitives of JAX.

    Args:
      folder: where it is.

    Returns:
      The network.  Its functions compare by what was saved.  They take the types that were saved and no others
      (TypeError), and any number of images.

    Raises:
      ValueError: a file is missing or damaged; program and weights disagree; the format, a primitive or a parameter is
        not known here; the program does not give what it says, such as one in float64 where ``jax_enable_x64`` is off.
    """
    root = Path(folder)
    for name in (PROGRAM, WEIGHTS):
        if not (root / name).is_file():
            raise ValueError(
                f"folder: expected a network that save_program wrote, with {PROGRAM} and {WEIGHTS}, but "
                f"{str(root)!r} has no {name}. Was the run that wrote it interrupted? What jp.structured.save wrote, "
                "jp.structured.load reads."
            )
    where = f"folder: {str(root)!r}"
    if (root / PROGRAM).stat().st_size > _LONGEST:
        raise ValueError(f"{where}: {PROGRAM} is longer than any program, {_LONGEST} bytes.")
    return _opened(where, (root / PROGRAM).read_text(), (root / WEIGHTS).read_bytes())


def _trees(network: Network) -> dict[str, Any]:
    return {"params": network.params, "state": network.state}


def _written(network: Network, image: Any, rngs: list[str]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The programs of a network, and their arrays."""

    def leaf(one: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(one), jnp.result_type(one))

    params, state = jax.tree.map(leaf, (network.params, network.state))

    def arguments(count: int) -> tuple[Any, ...]:
        return params, state, jax.ShapeDtypeStruct((count, *image.shape), image.dtype)

    found: dict[str, Any] = {"image": [image.dtype.name, list(image.shape)], "rngs": [], "train": None}
    if image.dtype.name not in STORED:
        raise ValueError(f"images: expected numbers, but got {image.dtype}.")
    try:
        found["apply"], constants = networks.program(network.apply, arguments)
        if network.train_apply is not None:
            keys = {name: jax.eval_shape(lambda: jax.random.key(0)) for name in rngs}
            made = jax.eval_shape(network.train_apply, *arguments(1), keys)
            if jax.tree.structure(made) != jax.tree.structure((0, state)):
                raise Unknown("a train_apply that does not return (outputs, state), the state like the one it takes")
            found["rngs"] = rngs
            training, more = networks.program(network.train_apply, lambda count: (*arguments(count), keys))
            found["train"] = _moved(training, len(constants))
            constants = [*constants, *more]
    except Unknown as unknown:
        raise ValueError(
            f"network: expected a program that can be saved, but it has {unknown}. Leave it out of the function, or "
            "keep its source: jp.structured.save stores the weights alone."
        ) from unknown
    return found, constants


def _moved(document: Any, by: int) -> Any:
    """A program whose arrays come behind those of another."""
    if isinstance(document, list):
        return [_moved(one, by) for one in document]
    if not isinstance(document, dict):
        return document
    inner = {key: _moved(one, by) for key, one in document.items()}
    if inner.keys() == {"inputs", "constants", "steps", "outputs"}:
        inner["constants"] = [number + by for number in inner["constants"]]
    return inner


def _opened(where: str, text: str, content: bytes) -> Network:
    try:
        values = json.loads(text)
        body = {key: values[key] for key in _PARTS}
        stated = str(values["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{where}: {PROGRAM} is damaged ({type(error).__name__}: {str(error)[:200]}). Copy it again from where it "
            "was made."
        ) from error
    if body["format"] != _FORMAT or body["version"] != _VERSION:
        raise ValueError(
            f"{where}: expected {_FORMAT!r} of version {_VERSION}, but got {str(body['format'])[:40]!r} of version "
            f"{str(body['version'])[:40]}. Use the version of jaxprune that wrote it."
        )
    both, weights = f"{where}: program and weights", f"{where}: {WEIGHTS}"
    arrays = opened(_compact(body), content, stated, document=PROGRAM, both=both, weights=weights)
    try:
        network = _network(body, arrays, stated)
        wide = [name for name, one in tree.by_name((network.params, network.state)).items() if one.dtype.itemsize == 8]
        if jnp.result_type(float) != np.float64 and (wide or body["image"][0] in ("float64", "int64", "uint64")):
            raise Unknown(f"it is of 64 bits ({', '.join(wide[:3]) or 'its images'}), and jax_enable_x64 is off.")
        # Any number of images, so that a step that is not known here is found now.
        kind, shape = body["image"]
        for count in (1, 2):
            jax.eval_shape(network, jax.ShapeDtypeStruct((count, *shape), kind))
    except (Unknown, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        said = str(error) if isinstance(error, (Unknown, ValueError)) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{where}: {said.removeprefix('network: ')[:800]} Take program and weights that belong together, a version "
            "of JAX that knows the program, and jax_enable_x64 as it was when it was saved."
        ) from error
    return network


def _network(body: Mapping[str, Any], arrays: Mapping[str, np.ndarray], digest: str) -> Network:
    """Makes the network, and checks that the arrays are those that it says."""
    wanted, built = {}, {}
    for where in ("params", "state"):
        built[where] = networks.shapes(body[where])
        wanted |= {f"{where}/{name}": one for name, one in tree.by_name(built[where]).items()}
    for place, one in enumerate(body["constants"]):
        wanted[f"constants/{place}"] = networks.shapes(one)
    missing, more = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
    if missing or more:
        raise Unknown(f"the weights lack {missing[:3]} and have {more[:3]} that the program does not take.")
    for name, one in wanted.items():
        array = arrays[name]
        kind = "uint16" if one.dtype.name == "bfloat16" else one.dtype.name
        if (array.dtype.name, array.shape) != (kind, one.shape):
            raise Unknown(
                f"{name} should be {one.dtype.name}{list(one.shape)}, but is {array.dtype.name}{list(array.shape)}."
            )
    leaves = {name: arrays[name].view(one.dtype) for name, one in wanted.items()}
    constants = tuple(leaves[f"constants/{place}"] for place in range(len(body["constants"])))
    trees = [
        tree.map_named(lambda name, _, where=where: leaves[f"{where}/{name}"], built[where])
        for where in ("params", "state")
    ]
    return Written(body, constants, digest).network(*trees)


def _demand_same(network: Network, loaded: Network, image: Any, rngs: list[str]) -> None:
    """Checks what was read back on random images: one alone, whose axis of length 1 is special; training on three."""

    @jax.jit
    def both(networks: tuple[Network, Network], images: Any, keys: Any) -> Any:
        if len(images) == 1:
            return [one(images) for one in networks]
        return [one.train_apply and one.train_apply(one.params, one.state, images, keys) for one in networks]

    draw = np.random.default_rng(0)
    for count in (1,) if network.train_apply is None else (1, 3):
        shape = (count, *image.shape)
        images = (draw.integers(0, 256, shape) if image.dtype.kind == "u" else draw.normal(size=shape)).astype(
            image.dtype
        )
        want, got = both((network, loaded), images, {name: jax.random.key(0) for name in rngs})
        for one, other in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
            one, other = (np.asarray(value, np.float64) for value in (one, other))
            if not np.allclose(one, other, rtol=1e-3, atol=1e-4 * (1 + np.abs(one).max(initial=0.0)), equal_nan=True):
                raise ValueError(
                    f"network: expected the same function for any number of images, but for {count} the program that "
                    "was traced for several gives other outputs. Does it do something else where there are few? Pass a "
                    "function of each image by itself."
                )


def _bits(array: np.ndarray) -> np.ndarray:
    """What safetensors of NumPy holds: bfloat16 as its bits."""
    return (
        np.ascontiguousarray(array).view(np.uint16) if array.dtype.name == "bfloat16" else np.asarray(array, order="C")
    )


def _compact(body: Mapping[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":"))
