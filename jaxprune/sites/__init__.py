"""Places inside a network, found in its program: values that it tags, and the outputs of its kernels."""

from jaxprune.sites.changes import before, gradients_at, guided
from jaxprune.sites.kernels import Site
from jaxprune.sites.proof import Proof, add_to, has_own_backward
from jaxprune.sites.survey import Survey, survey
from jaxprune.sites.tags import outputs_at, read, read_jit, tags

__all__ = [
    "Proof",
    "Site",
    "Survey",
    "add_to",
    "before",
    "gradients_at",
    "guided",
    "has_own_backward",
    "outputs_at",
    "read",
    "read_jit",
    "survey",
    "tags",
]
