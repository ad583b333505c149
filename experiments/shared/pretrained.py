"""Networks that were trained elsewhere: weights in a file, a folder of ours, or a function of the user's."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from experiments.shared import named
from jaxprune import check, records
from jaxprune.models import pretrained
from jaxprune.train import programs
from jaxprune.types import Preprocess


@dataclass(frozen=True)
class Weights:
    """A pretrained network as studies use it.

    Attributes:
      name: what the page calls it.
      network: it takes bytes, or pixels in [0, 1].
      preprocess: how images are brought to its size; None: as the source gives them.
      dropped: what its file holds beside it, with the reasons.
      fingerprint: of the file, or of parameters and program.
    """

    name: str
    network: jp.Network
    preprocess: Preprocess | None
    dropped: Mapping[str, str]
    fingerprint: str


def load_weights(path: str, architecture: str, image: int | None) -> Weights:
    """Loads a pretrained network, or one that ``jp.structured.save`` wrote (architecture "jaxprune").

    Raises:
      ValueError: no architecture is given, or what ``jp.models.load`` and ``jp.structured.load`` raise.
    """
    known = ("jaxprune", *jp.models.ARCHITECTURES)
    if not Path(path).exists():
        raise ValueError(f"weights: there is no file {path!r}.")
    if not architecture:
        fitting = " It looks like jaxprune." if Path(path).is_dir() else ""
        if not fitting and (names := pretrained.looks_like(path)):
            fitting = f" It looks like {' or '.join(names)}."
        raise ValueError(f"architecture: expected whose weights {path!r} are, one of {', '.join(known)}.{fitting}")
    check.choice("architecture", architecture, known)
    if architecture == "jaxprune":
        return _of_jaxprune(path, image)
    # Heads of the study's own replace the last layer.
    found = pretrained.read(path, architecture, image=image, head=False)
    network = jp.models.normalised(found.network, found.preprocess)
    return Weights(architecture, network, found.preprocess, found.dropped, found.fingerprint)


def own(function: str | Callable[..., Any]) -> Weights:
    """Takes a network, or that of a function: a ``Network``, or a pair of it and its ``Preprocess``."""
    found = function if isinstance(function, jp.Network | tuple) else named.call("network", function)
    network, preprocess = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not isinstance(network, jp.Network) or not isinstance(preprocess, Preprocess | None):
        raise ValueError(
            f"network: expected {function} to return a jp.Network, or (jp.Network, jp.types.Preprocess), "
            f"but got {type(found).__name__}. jp.Network.from_linen, from_nnx and from_equinox make one of a model."
        )
    made = network if preprocess is None else jp.models.normalised(network, preprocess)
    # Resizing is no part of the network.
    preprocessing = None if preprocess is None else dataclasses.asdict(preprocess)
    return Weights(named.name(function), made, preprocess, {}, _fingerprint(network, preprocessing))


def demand_fitting(weights: Weights, images: jp.data.Source, site: str = "features") -> str:
    """Checks that a network takes the images of a source, and tags what its heads read.

    Returns:
      A hash of its program.
    """
    if weights.preprocess is not None and images.image_shape[-1] != 3:
        raise ValueError(
            f"data: expected images in colours, but those of {images.name} have the shape {images.image_shape}. "
            "Repeat a grey channel."
        )
    kind = np.float32 if weights.preprocess is None else np.uint8
    one = jax.ShapeDtypeStruct((1, *images.image_shape), kind)
    try:
        jax.eval_shape(weights.network, one)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"data: images of {images.name}, {images.image_shape}, do not fit {weights.name}: {error}"
        ) from error
    tags = jp.sites.tags(weights.network, one)
    if site not in tags:
        raise ValueError(_how_to_tag(weights.name, site, tags))
    network = weights.network
    # With the constants that it closes over, those of its preprocessing among them.
    return programs.traced(network.apply, network.params, network.state, one)[0]


def _how_to_tag(name: str, site: str, tags: Sequence[str]) -> str:
    has = f"it tags {', '.join(tags[:5])}" if tags else "it tags nothing"
    return (
        f"network: expected {name} to tag {site!r}, the values [b, d] that heads are fitted on, but {has}. In its "
        "code, where the classifier begins, write: from jax.ad_checkpoint import checkpoint_name; "
        f'x = checkpoint_name(x, "{site}")'
    )


def _of_jaxprune(path: str, image: int | None) -> Weights:
    specification, network = jp.structured.load(path, jp.models.specification)
    preprocess = jp.structured.preprocess_of(path)
    if image is not None:
        preprocess = dataclasses.replace(preprocess, resize=(image, image), crop=None)
    family = specification.describe()["family"]
    made = jp.models.normalised(network, preprocess)
    # The shape and the preprocessing too: the same arrays mean another network with others.
    fingerprint = _fingerprint(network, specification.describe(), dataclasses.asdict(preprocess))
    return Weights(f"{family} of jaxprune", made, preprocess, {}, fingerprint)


def _fingerprint(network: jp.Network, *beside: Any) -> str:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((network.params, network.state))]
    return records.digest([records.fingerprint(*leaves), *beside])[:16]
