"""How alike two representations of the same examples are: centred kernel alignment and its family.

Every function takes features [n, ...] of the same n examples (more axes are flattened; NumPy or JAX arrays, of one
device or sharded over the examples), runs compiled kernels and returns a Python float.  Calling again with the same
shapes compiles nothing.

What they ignore differs, and no single one sees every difference that matters (Ding, Denain and Steinhardt (2021),
arXiv 2108.01661).  All but ``svcca`` ignore rotation of the features and one scale for all of them:

    linear_cka, rbf_cka, minibatch_cka, streaming_cka    and translation; dominated by directions of high variance
    procrustes, angular                                  and translation; metrics, they obey the triangle inequality
    svcca                                                and every invertible linear map of the directions it keeps
    mutual_neighbours                                    not translation (cosine)
    rsa                                                  not rotation, not translation (it correlates over the features)
"""

from jaxprune.similarity.cka import gram_cka, linear_cka, minibatch_cka, rbf_cka
from jaxprune.similarity.neighbours import mutual_neighbours, rsa
from jaxprune.similarity.shape import angular, procrustes, svcca
from jaxprune.similarity.streaming import streaming_cka

__all__ = [
    "angular",
    "gram_cka",
    "linear_cka",
    "minibatch_cka",
    "mutual_neighbours",
    "procrustes",
    "rbf_cka",
    "rsa",
    "streaming_cka",
    "svcca",
]
