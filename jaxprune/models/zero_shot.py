"""Classification without training: images beside descriptions of classes, as CLIP compares them."""

import os
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import check, tensor_files
from jaxprune.network import Network
from jaxprune.types import Apply, TrainApply


def zero_shot(network: Network, text_features: Any, scale: float = 100.0) -> Network:
    """Makes a classifier of an image tower and the text features of every class.

    ``outputs = scale * e / |e| @ (t / |t|)^T``, with e the embedding of an image and t the features of a class.  They
    lie in the state, normalised, so they are not trained, scored or pruned; training goes through them.

    Args:
      network: images to embeddings [b, d], such as "clip/vit_b32".
      text_features: [classes, d], one row for each class.  (The mean over several descriptions of it, if there are.)
        Or the path of a file that holds them and nothing else, in a format of ``jp.tensor_files.read``.
      scale: of the logits; CLIP's is 100, the exponential of its ``logit_scale``.

    Returns:
      A network with the same parameters; its state is ``{"network": ..., "text": ...}``.

    Raises:
      ValueError: features that are not [classes, d] or not finite, a file with other than one tensor, a class whose
        features are all zero, or a scale that is not above zero.

    Source: Radford et al. (2021), arXiv 2103.00020, section 3.1.

    >>> tower = Network(lambda params, state, images: images, {})
    >>> zero_shot(tower, jnp.array([[2.0, 0.0], [0.0, 5.0]]), scale=10.0)(jnp.array([[0.3, 0.4]])).round(4)
    Array([[6., 8.]], dtype=float32)
    """
    check.positive("scale", scale)
    if isinstance(text_features, (str, os.PathLike)):
        text_features = _only_tensor(text_features)
    text = np.asarray(text_features, np.float32)
    if text.ndim != 2 or 0 in text.shape:
        raise ValueError(
            f"text_features: expected [classes, d], one row for each class, but got the shape {text.shape}. Average "
            "over the descriptions of a class."
        )
    check.finite("text_features", text, "Was the text tower run in half precision?")
    lengths = np.linalg.norm(text, axis=1, keepdims=True)
    if not np.all(lengths):
        raise ValueError(
            f"text_features: expected a direction for each class, but row {int(np.argmin(lengths))} is zero. Make the "
            "features of that class anew."
        )
    state = {"network": network.state, "text": jnp.asarray(text / lengths)}
    train = None if network.train_apply is None else _TrainApply(network.train_apply, float(scale))
    return network.replace(apply=_Apply(network.apply, float(scale)), state=state, train_apply=train)


def _only_tensor(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the one tensor of a file."""
    tensors = tensor_files.read(path).tensors
    if len(tensors) != 1:
        raise ValueError(
            f"text_features: expected one tensor in {str(path)!r}, but it has {len(tensors)}: "
            f"{', '.join(list(tensors)[:5])}. Save the features [classes, d] alone."
        )
    return next(iter(tensors.values()))


# Frozen dataclasses rather than closures, so that equal networks compare equal and never compile twice.
@dataclass(frozen=True)
class _Apply:
    apply: Apply
    scale: float

    def __call__(self, params: Any, state: Any, images: Any) -> Any:
        return _compared(self.apply(params, state["network"], images), state["text"], self.scale)


@dataclass(frozen=True)
class _TrainApply:
    train_apply: TrainApply
    scale: float

    def __call__(self, params: Any, state: Any, images: Any, rngs: Any) -> Any:
        embeddings, inner = self.train_apply(params, state["network"], images, rngs)
        return _compared(embeddings, state["text"], self.scale), {**state, "network": inner}


def _compared(embeddings: Any, text: Any, scale: float) -> Any:
    if embeddings.shape[-1] != text.shape[-1]:
        raise ValueError(
            f"text_features: expected [classes, {embeddings.shape[-1]}], as this network embeds, but got "
            f"{tuple(text.shape)}. Take the text tower that was trained with it."
        )
    return scale * (embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)) @ text.T
