"""The rule of every primitive, by its name."""

from collections.abc import Callable

from jaxprune.structured.discovery import arithmetic, layout, products
from jaxprune.structured.discovery.indices import Nodes

Rule = Callable[..., list[tuple[Nodes, ...]]]

_LAYOUT: dict[str, Rule] = {
    "transpose": layout.transpose,
    "broadcast_in_dim": layout.broadcast,
    "squeeze": layout.squeeze,
    "iota": layout.iota,
    "random_bits": layout.random,
    "random_wrap": layout.random,
    "random_unwrap": layout.random,
    "random_seed": layout.random,
    "random_fold_in": layout.random,
    "random_split": layout.random,
    "random_clone": layout.random,
    "reshape": layout.reshape,
    "concatenate": layout.concatenate,
    "stack": layout.stack,
    "unstack": layout.unstack,
    "tile": layout.tile,
    "slice": layout.part,
    "split": layout.split,
    "pad": layout.pad,
    "rev": layout.reverse,
    "dynamic_slice": layout.dynamic_slice,
    "dynamic_update_slice": layout.dynamic_update_slice,
    "gather": layout.gather,
    **dict.fromkeys(["scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"], layout.scatter),
    "optimization_barrier": arithmetic.identity,
    "device_put": arithmetic.identity,
    "bitcast_convert_type": arithmetic.recast,
    "sort": arithmetic.ordered,
    "top_k": arithmetic.ordered,
}
RULES: dict[str, Rule] = {
    **dict.fromkeys(arithmetic.ELEMENTWISE, arithmetic.elementwise),
    **dict.fromkeys(arithmetic.REDUCTIONS, arithmetic.reduction),
    **dict.fromkeys(arithmetic.CUMULATIVE, arithmetic.cumulative),
    **dict.fromkeys(arithmetic.WINDOWS, arithmetic.window),
    **_LAYOUT,
}
PRODUCTS = {"dot_general": products.matrix_product, "conv_general_dilated": products.convolution}
