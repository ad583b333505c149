"""Networks that others have trained: from their files into ours, and back.

``load`` makes a network and the record of its preprocessing; ``read`` tells more of where they came from; ``export``
writes them under the names of their source again.  ``architectures.ARCHITECTURES`` says which networks there are.
Nothing in a file is ever run, see ``jaxprune.tensor_files``.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import check, tensor_files
from jaxprune.models import mapping
from jaxprune.models.architectures import ARCHITECTURES, Architecture
from jaxprune.network import Network
from jaxprune.types import Preprocess

# Found beside networks in checkpoints, and in no network.
_TRAINING = {
    r"(optimizers?|(lr_)?schedulers?|(fp16_|loss_)?scaler|amp|dino_loss)\..*": "a state of the training",
    r"(model_ema|ema|state_dict_ema|ema_state_dict)\..*": "a moving average of the network, beside it",
    r"(best_(acc|prec)1?|acc1|best_acc5|epoch|step|iteration)": "a number of the training",
}


class Pretrained(NamedTuple):
    """A network that was read from a file.

    Attributes:
      network: float32; it takes images [b, h, w, 3] that are normalised as ``preprocess`` says.
      preprocess: the source's evaluation transform.
      module: the network's shape, its specification.
      dropped: what the file holds and the network does not, by name, with the reason.
      fingerprint: 16 hexadecimal digits of the SHA-256 of the file.
    """

    network: Network
    preprocess: Preprocess
    module: Any
    dropped: Mapping[str, str]
    fingerprint: str


def load(
    path: str | os.PathLike[str], architecture: str, *, image: int | None = None, head: bool = True
) -> tuple[Network, Preprocess]:
    """Loads a network and its preprocessing from a file of another library.

    Args:
      path: a file in safetensors, npz, or PyTorch's formats (.pth, .pt; TorchScript archives too).
      architecture: one of ``jp.models.ARCHITECTURES``, such as "torchvision/resnet50".
      image: height and width of the images, where they are not those of the source.  Positions are resampled by the
        source's own method.
      head: whether to load the last layer.  False: the outputs are the features, and the file need not have it.

    Returns:
      (network, preprocess).  The network takes normalised images; ``jp.models.normalised(network, preprocess)`` takes
      bytes, or pixels in [0, 1].

    Raises:
      ValueError: an unknown architecture, a file that can't be read, or one of another network: the message says which
        tensors are missing, extra or of another shape, and which architecture the file looks like.

    >>> import tempfile
    >>> module = ARCHITECTURES["torchvision/resnet18"].module(10, 224)
    >>> shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    >>> network = Network.from_linen(module, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export(Path(folder) / "net.pth", network, "torchvision/resnet18")
    ...     again, preprocess = load(path, "torchvision/resnet18")
    >>> preprocess.resize, preprocess.crop, again.params["head"]["bias"].shape
    (256, 224, (10,))
    """
    found = read(path, architecture, image=image, head=head)
    return found.network, found.preprocess


def read(
    path: str | os.PathLike[str], architecture: str | Architecture, *, image: int | None = None, head: bool = True
) -> Pretrained:
    """Loads a network, with all that is known of it; arguments and errors are those of ``load``.

    An ``Architecture`` of one's own is taken as well as a name.
    """
    known = named(architecture)
    if image is not None:
        check.whole("image", image)
    file = tensor_files.read(path)
    try:
        tensors = _unwrapped(file.tensors, known)
        module = _module(known, tensors, head)
        layout = _layout(known, module)
        variables = mapping.read(layout, tensors, _variables(known, module))
    except (mapping.NamesError, mapping.ShapeError) as error:
        raise ValueError(_explained(path, file.tensors, known, error)) from error
    except ValueError as error:
        raise ValueError(f"path: {str(path)!r}: {error}") from error
    if image is not None and known.resize is not None:
        module, params = known.resize(module, variables["params"], image)
        variables = {**variables, "params": params}
    state = {name: part for name, part in variables.items() if name != "params"}
    return Pretrained(
        module.network(variables["params"], state),
        known.preprocess(image or getattr(module, "image", known.image)),
        module,
        mapping.dropped(layout, tensors),
        file.fingerprint,
    )


def export(path: str | os.PathLike[str], network: Network, architecture: str | Architecture) -> Path:
    """Writes a network under the names and in the layout of its source, so that the source's library loads it.

    Masked weights are zeros there like here.  What was cut smaller has no names there: ``jp.structured.save`` keeps it
    with its shape, and ``jp.structured.export_pytorch`` takes it to PyTorch.

    Args:
      path: the suffix says the format: .safetensors, .npz, .pth or .pt.
      network: one that ``load`` made, or of the same module.
      architecture: whose names; one of ``jp.models.ARCHITECTURES``.

    Returns:
      The path; ``load`` makes of it the same network, bit for bit.

    Raises:
      ValueError: a suffix or architecture that is unknown, or a network of another shape than the architecture has.
    """
    known, module = named(architecture), network.module
    variables = {"params": network.params, **network.state}
    try:
        tensors = mapping.write(_layout(known, module), variables)
        full = known.module(module.classes, getattr(module, "image", known.image))
        expected = mapping.shapes(_layout(known, full), _variables(known, full))
        if {name: tensors[name].shape for name in expected} != expected or full.describe() != module.describe():
            raise ValueError("units or layers were removed")
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"network: expected the shape of {known.name}, but {error}. jp.structured.export_pytorch writes a network "
            "of any shape, with a PyTorch module that reads it."
        ) from error
    target = Path(path)
    check.writable("path", target.parent)
    tensor_files.write(target, tensors)
    return target


def looks_like(path: str | os.PathLike[str]) -> list[str]:
    """Lists the architectures whose tensors, with their names and shapes, a file holds."""
    return _fitting(tensor_files.read(path).tensors)


def named(architecture: str | Architecture) -> Architecture:
    """Returns the architecture of that name."""
    if isinstance(architecture, Architecture):
        return architecture
    return ARCHITECTURES[check.choice("architecture", architecture, ARCHITECTURES)]


def _unwrapped(tensors: Mapping[str, Any], known: Architecture) -> Mapping[str, Any]:
    """Takes the first of the architecture's prefixes that the file has from all names that begin with it."""
    prefix = next((one for one in known.prefixes if f"{one}{known.first}" in tensors), "")
    return known.prepare({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})


def _layout(known: Architecture, module: Any) -> mapping.Layout:
    """The layout of a module; what a training keeps beside its network is dropped from every file."""
    made = known.layout(module)
    dropped = {**made.dropped, **_TRAINING}
    if known.head is not None and not module.classes:
        whole = known.layout(known.module(known.classes, getattr(module, "image", known.image)))
        reason = "the last layer, which was not asked for"
        dropped |= {re.escape(name): reason for name in sorted(_names(whole) - _names(made))}
    return replace(made, dropped=dropped)


def _names(layout: mapping.Layout) -> set[str]:
    return {name for rule in layout.rules for name in rule.tensors}


def _module(known: Architecture, tensors: Mapping[str, np.ndarray], head: bool = True) -> Any:
    """Makes the module with the classes and the image size of a file; where it does not say them, the source's own."""
    classes, image = known.classes, known.image
    if known.head is not None and known.head.tensor in tensors:
        shape = tensors[known.head.tensor].shape
        classes = shape[known.head.axis] if known.head.axis < len(shape) else classes
    if known.positions is not None and known.positions.tensor in tensors:
        tokens = tensors[known.positions.tensor].shape[-2:][0] - known.positions.others
        side = math.isqrt(max(tokens, 0))
        image = side * known.positions.patch if side * side == tokens and side else image
    return known.module(classes if head else 0, image)


def _variables(known: Architecture, module: Any) -> Any:
    """The shapes of all that a module holds."""
    # The module says how large its images are, where that matters.
    side = getattr(module, "image", known.image)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


def _explained(path: Any, tensors: Mapping[str, np.ndarray], known: Architecture, error: Exception) -> str:
    fitting = _fitting(tensors)
    if fitting:
        hint = f"It looks like {' or '.join(fitting)}."
    elif isinstance(error, mapping.ShapeError):
        hint = (
            f"It has all the names of {known.name}, and another shape: is it a network of another width or patch size, "
            "or was it cut smaller?"
        )
    else:
        hint = _nearest(tensors, known)
    return f"path: {str(path)!r} is not of {known.name}: {error} {hint}"


def _nearest(tensors: Mapping[str, np.ndarray], known: Architecture) -> str:
    """Says which architecture has most of the names, ``known`` before others."""
    every = {known.name: known} | {name: one for name, one in ARCHITECTURES.items() if name != known.name}
    shares = {(name, True): _share(one, tensors) for name, one in every.items()}
    shares |= {(name, False): _share(one, tensors, head=False) for name, one in every.items() if one.head is not None}
    (name, head), share = max(shares.items(), key=lambda entry: entry[1])
    if share == 1:
        return (
            f"It has all the names of {name}, but other shapes: is it a network of another width or patch size?"
            if head
            else f"All that it lacks of {name} is in the last layer: load it as that, with head=False."
        )
    # Rounded down: 100 % would be all of them.
    near = f"; the nearest is {name}, with {math.floor(100 * share)}% of the names" if share > 0 else ""
    return f"It fits none of the known architectures{near}. Is the file complete, and of a network as it is published?"


def _fitting(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Lists the architectures that fit exactly."""
    found = []
    for name, known in ARCHITECTURES.items():
        if _share(known, tensors) < 1:
            continue
        inside = _unwrapped(tensors, known)
        module = _module(known, inside)
        expected = mapping.shapes(_layout(known, module), _variables(known, module))
        if all(inside[key].shape == shape for key, shape in expected.items()):
            found.append(name)
    return found


def _share(known: Architecture, tensors: Mapping[str, np.ndarray], head: bool = True) -> float:
    """The share of names that a file and an architecture have in common, of all that either has and none drops."""
    try:
        inside = _unwrapped(tensors, known)
    except ValueError:  # of a network that we have not
        return 0.0
    layout = _layout(known, _module(known, inside, head))
    wanted = _names(layout)
    there = set(inside) - set(mapping.dropped(layout, inside))
    return len(wanted & there) / len(wanted | there)
