"""Weights beside a document that says what they are: a hash of both tells whether they belong together."""

import hashlib

import numpy as np
import safetensors
import safetensors.numpy

WEIGHTS = "weights.safetensors"


def seal(text: str, content: bytes) -> str:
    """The SHA-256 of a document and its weights."""
    return hashlib.sha256(text.encode() + content).hexdigest()


def opened(text: str, content: bytes, stated: str, *, document: str, both: str, weights: str) -> dict[str, np.ndarray]:
    """Reads the weights, if they are those of the document.

    Args:
      text: the document, but for its hash.
      content: of the file of weights.
      stated: the hash that the document states.
      document: the name of its file.
      both: what the two are called in an error.
      weights: what the second is called.

    Raises:
      ValueError: they do not belong together, or the weights are no safetensors file.
    """
    if (found := seal(text, content)) != stated:
        raise ValueError(
            f"{both} disagree: together they should have the SHA-256 {stated[:12]}..., but have {found[:12]}.... One "
            f"of {document} and {WEIGHTS} was changed, or is from another network: copy both again."
        )
    try:
        return safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{weights} is no safetensors file ({error}). Copy it again.") from error
