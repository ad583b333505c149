"""Networks on disk: the shape as JSON, the weights as safetensors beside it, nothing that could run code.

specification.json     the shape, that of the images, and the SHA-256 of the weights that belong to it
weights.safetensors    every leaf by its name, "params/..." and "state/..."
network.py             on demand: the builder that makes it in PyTorch; jaxprune itself neither reads nor runs it
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxprune import check, files, tree
from jaxprune.groups import Specification, check_specification
from jaxprune.network import Network
from jaxprune.structured.probes import float_type
from jaxprune.structured.programs.folders import PROGRAM, load_program, save_program
from jaxprune.structured.removal import check_members
from jaxprune.structured.sealed import WEIGHTS, opened, seal
from jaxprune.types import Preprocess

_SHAPE, _BUILDER = "specification.json", "network.py"
# Kept as text, since it imports PyTorch, which nothing here does.
_TEMPLATE = Path(__file__).with_name("network.py.txt")
_IN_PYTORCH = ("clip_resnet", "efficientnet_lite", "resnet", "swin_v2", "vit")


def save(
    folder: str | os.PathLike[str],
    specification: Specification,
    params: Any,
    state: Any,
    image_shape: Sequence[int],
    preprocess: Preprocess | None = None,
) -> Path:
    """Saves a network: its specification as JSON, its arrays as safetensors.

    The specification is written last and hashed together with the weights, so a folder in which writing was interrupted
    does not load.  Save into a folder of its own.

    Args:
      folder: made where it is missing.
      specification: the shape.
      params: nested dictionaries of arrays.
      state: nested dictionaries of arrays.
      image_shape: (h, w, c) of the images that it was made for.
      preprocess: how images become these images; ``preprocess_of`` reads it.

    Returns:
      The folder.

    Raises:
      ValueError: the folder cannot be written; specification, arrays and images do not fit together; a tree holds
        something else than dictionaries and arrays, or numbers that NumPy has not.
    """
    check_specification(specification)
    arrays = {}
    for where, part in (("params", params), ("state", state)):
        _demand_dictionaries(where, part)
        arrays |= {f"{where}/{name}": _stored(f"{where}/{name}", leaf) for name, leaf in tree.by_name(part).items()}
    _demand_agreement("image_shape, params", specification, specification.network(params, state), image_shape)
    root = check.writable("folder", folder)
    content = safetensors.numpy.save(arrays)
    files.write(root / WEIGHTS, content)
    shape: dict[str, Any] = {"image_shape": list(image_shape), "specification": specification.describe()}
    if preprocess is not None:
        shape["preprocess"] = asdict(preprocess)
    # Not sorted: the order of the blocks is that of the network.
    files.write(root / _SHAPE, json.dumps({"sha256": seal(json.dumps(shape), content), **shape}, indent=1) + "\n")
    return root


def load(
    folder: str | os.PathLike[str], build: Callable[[Mapping[str, Any]], Specification]
) -> tuple[Specification, Network]:
    """Loads a network that ``save`` wrote.

    Args:
      folder: where it is.
      build: makes a specification of what its ``describe`` wrote; ``jp.models.specification`` for our own networks.

    Returns:
      (specification, network).

    Raises:
      ValueError: a file is missing or damaged, or specification and weights disagree; nothing is unpickled or run.
    """
    root = Path(folder)
    for name in (_SHAPE, WEIGHTS):
        if not (root / name).is_file():
            program = (root / PROGRAM).is_file()
            raise ValueError(
                f"folder: expected a saved network with {_SHAPE} and {WEIGHTS}, but {str(root)!r} has no {name}. "
                + ("It is a program: load_program reads it." if program else "Was the run that wrote it interrupted?")
            )
    values, content = _json(root / _SHAPE), (root / WEIGHTS).read_bytes()
    document = json.dumps({name: value for name, value in values.items() if name != "sha256"})
    named = {
        "both": f"folder: specification and weights in {str(root)!r}",
        "weights": f"folder: {str(root / WEIGHTS)!r}",
    }
    arrays = opened(document, content, str(values["sha256"]), document=_SHAPE, **named)
    params, state = (_nested(arrays, where) for where in ("params", "state"))
    specification = build(values["specification"])
    check_specification(specification)
    network = specification.network(params, state)
    _demand_agreement(f"folder: {str(root)!r}", specification, network, values["image_shape"])
    return specification, network


def export_pytorch(
    folder: str | os.PathLike[str],
    specification: Specification,
    params: Any,
    state: Any,
    image_shape: Sequence[int],
    preprocess: Preprocess | None = None,
) -> Path:
    """Saves a network as ``save`` does, and beside it the Python file that builds it in PyTorch, whatever was removed.

    ``network.py`` needs PyTorch and safetensors, and nothing of ours: ``build(folder)`` makes a ``torch.nn.Module``
    that maps images [b, c, h, w] to outputs [b, classes], equal to ours up to float32's rounding.

    Args:
      folder: made where it is missing.
      specification: the shape, one of the families of ``jaxprune.models``.
      params: nested dictionaries of arrays.
      state: nested dictionaries of arrays.
      image_shape: (h, w, c) of the images that it was made for.
      preprocess: how images become these images; ``preprocess_of`` reads it.

    Returns:
      The folder.

    Raises:
      ValueError: a family that the builder does not know; all that ``save`` raises.

    >>> import tempfile
    >>> from jaxprune.models import resnet_cifar
    >>> module = resnet_cifar(8, width=2)
    >>> shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    >>> state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    >>> params = state.pop("params")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.name for path in export_pytorch(folder, module, params, state, (8, 8, 3)).iterdir())
    ['network.py', 'specification.json', 'weights.safetensors']
    """
    check_specification(specification)
    check.choice("specification: family", str(specification.describe().get("family")), _IN_PYTORCH)
    root = save(folder, specification, params, state, image_shape, preprocess)
    files.write(root / _BUILDER, _TEMPLATE.read_bytes())
    return root


def preprocess_of(folder: str | os.PathLike[str]) -> Preprocess:
    """Reads how images become the images of a saved network.

    Args:
      folder: where ``save`` wrote it.

    Returns:
      What was saved; where nothing was, the images squeezed to the size of its images, as pixels in [0, 1].

    Raises:
      ValueError: the folder holds no specification, or a damaged one; ``load`` checks it together with the weights.
    """
    path = Path(folder) / _SHAPE
    if not path.is_file():
        raise ValueError(f"folder: expected a saved network with {_SHAPE}, but {str(folder)!r} has none.")
    values = _json(path)
    if "preprocess" in values:
        # std was once called deviation; the SHA-256 of such a folder is of that word, so nobody can just change it.
        read = {"std" if name == "deviation" else name: value for name, value in values["preprocess"].items()}
        return Preprocess(**read)
    height, width, _ = values["image_shape"]
    return Preprocess(resize=(height, width), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def export(network: Network, image_shape: Sequence[int], path: str | os.PathLike[str]) -> Path:
    """Writes a network as one file that ``jax.export.deserialize`` reads: no Python of ours, no pickle.

    It takes float32 images, any number of them, on a CPU, GPU or TPU, and has one reverse derivative.  It is for
    serving: JAX knows nothing of what is inside, so it has no forward derivatives and no ``vmap``, and nothing in
    jaxprune can look into it.  ``jp.structured.save_program`` saves a network that stays one.

    Args:
      network: its weights become part of the program.
      image_shape: (h, w, c); the number of images stays open.
      path: the file.

    Returns:
      The path.

    Raises:
      ValueError: the folder of the file cannot be written; the function depends on the number of images otherwise than
        by sizes, or holds what ``save_program`` refuses.
    """
    target = Path(path)
    check.writable("path", target.parent)
    try:
        exported = _exported(network, image_shape)
    except TypeError:  # len(images), and shapes that a trace has fixed, are numbers of Python
        shape = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            program = load_program(save_program(folder, network.replace(train_apply=None), shape))
        exported = _exported(program, image_shape)
    files.write(target, bytes(exported.serialize(vjp_order=1)))
    return target


def _exported(network: Network, image_shape: Sequence[int]) -> jax.export.Exported:
    (count,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((count, *image_shape), np.float32)
    params, state = jax.tree.map(np.asarray, (network.params, network.state))

    def evaluate(batch: Any) -> Any:
        # JAX arrays: NumPy's functions do not know a number of images that is open.
        arrays, others = jax.tree.map(jnp.asarray, (params, state))
        return network.apply(arrays, others, batch)

    return jax.export.export(jax.jit(evaluate), platforms=("cpu", "cuda", "rocm", "tpu"))(images)


def _stored(name: str, leaf: Any) -> np.ndarray:
    array = np.asarray(leaf, order="C")
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name}: expected numbers that NumPy has, but got {array.dtype}. Cast it to float32 first; every bfloat16 "
            "number is one."
        )
    return array


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
        shape = [int(length) for length in values["image_shape"]]
        found = {"sha256": values["sha256"], "image_shape": shape, "specification": dict(values["specification"])}
        return found | ({"preprocess": dict(values["preprocess"])} if "preprocess" in values else {})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"folder: {str(path)!r} is damaged ({type(error).__name__}: {error}). Copy it again from where it was made."
        ) from error


def _nested(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, array in arrays.items():
        folder, *parts = name.split("/")
        if folder == where:
            inner = result
            for part in parts[:-1]:
                inner = inner.setdefault(part, {})
            inner[parts[-1]] = array
    return result


def _demand_dictionaries(where: str, value: Any) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if "/" in str(key):
                raise ValueError(f"{where}: expected names without a slash, but got {key!r}. Rename it.")
            _demand_dictionaries(f"{where}/{key}", part)
    elif not jax.tree_util.all_leaves([value]):
        raise ValueError(
            f"{where}: expected nested dictionaries of arrays, but found a {type(value).__name__}. Convert it with "
            "flax.serialization.to_state_dict or by hand."
        )


def _demand_agreement(where: str, specification: Specification, network: Network, image_shape: Sequence[int]) -> None:
    """Checks that the arrays are those that a network of this shape has, and that it takes such images."""
    try:
        check_members(specification.groups(), network.params, network.state)
        outputs = jax.eval_shape(network, jax.ShapeDtypeStruct((1, *image_shape), float_type(network.params)))
        check.outputs(outputs, 1)
    except Exception as error:  # whatever a network raises for arrays that do not fit
        raise ValueError(
            f"{where}: specification, weights and images of {tuple(image_shape)} disagree: {error} Take those that "
            "belong together; a function that was declared must read every width off its parameters."
        ) from error
