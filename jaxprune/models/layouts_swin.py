"""How torchvision names the weights of Swin transformers of version 2."""

import numpy as np

from jaxprune.models.mapping import Arrays, Layout, Rule, convolution, dense, fused, norm, reshaped, same
from jaxprune.models.swin import BlockShape, SwinV2
from jaxprune.models.swin_blocks import pairs


def torchvision_swin(module: SwinV2) -> Layout:
    """Lays out a Swin transformer as torchvision does: ``features.0.0``, ``features.1.0.attn.qkv``, ``head``.

    Odd members of ``features`` are stages, the even ones between them merge patches.  The tables of places that
    torchvision stores follow from the window, and are made anew.
    """
    rules = [
        convolution("features.0.0.weight", "params/embed/kernel"),
        same("features.0.0.bias", "params/embed/bias"),
        *norm("features.0.2", "embed_norm"),
    ]
    added: dict[str, np.ndarray | None] = {}
    for stage in range(1, len(module.head_widths)):
        rules += dense(f"features.{2 * stage}.reduction", f"merge{stage}/reduction", bias=False)
        rules += norm(f"features.{2 * stage}.norm", f"merge{stage}/norm")
    for shape in module.blocks:
        block = f"features.{2 * shape.stage - 1}.{shape.number}"
        if shape.heads:
            rules += _attention(shape, block)
            added |= {f"{block}.attn.{name}": table for name, table in _tables(module.window).items()}
        if shape.hidden:
            rules += norm(f"{block}.norm2", f"{shape.name}/norm2")
            rules += dense(f"{block}.mlp.0", f"{shape.name}/mlp/hidden")
            rules += dense(f"{block}.mlp.3", f"{shape.name}/mlp/output")
    rules += norm("norm", "norm")
    rules += dense("head", "head") if module.classes else ()
    return Layout(tuple(rules), added=added)


def _attention(shape: BlockShape, theirs: str) -> tuple[Rule, ...]:
    ours, theirs_attention = f"{shape.name}/attention", f"{theirs}.attn"
    return (
        *norm(f"{theirs}.norm1", f"{shape.name}/norm1"),
        fused(f"{theirs_attention}.qkv.weight", [f"params/{ours}/{name}/kernel" for name in ("query", "key", "value")]),
        _biases(f"{theirs_attention}.qkv.bias", f"params/{ours}"),
        *dense(f"{theirs_attention}.proj", f"{ours}/output"),
        *dense(f"{theirs_attention}.cpb_mlp.0", f"{ours}/position/hidden"),
        *dense(f"{theirs_attention}.cpb_mlp.2", f"{ours}/position/output", bias=False),
        reshaped(f"{theirs_attention}.logit_scale", f"params/{ours}/logit_scale", (shape.heads, 1, 1), (shape.heads,)),
    )


def _biases(theirs: str, ours: str) -> Rule:
    """Takes the biases of query and value; that of the key torchvision sets to zero at each evaluation."""

    def read(found: Arrays) -> Arrays:
        query, _, value = np.split(found[0], 3)
        return query, value

    def write(made: Arrays) -> Arrays:
        return (np.concatenate([made[0], np.zeros_like(made[0]), made[1]]),)

    return Rule((theirs,), (f"{ours}/query/bias", f"{ours}/value/bias"), read, write)


def _tables(window: int) -> dict[str, np.ndarray]:
    """What torchvision stores of the places in a window: their offsets, scaled, and which of these a pair has."""
    apart = np.arange(1 - window, window, dtype=np.float32)
    grid = np.stack(np.meshgrid(apart, apart, indexing="ij"), axis=-1)[None] / np.float32(window - 1) * np.float32(8)
    scaled = np.sign(grid) * np.log2(np.abs(grid) + np.float32(1)) / np.float32(3)
    return {"relative_coords_table": scaled, "relative_position_index": pairs(window).astype(np.int64).ravel()}
