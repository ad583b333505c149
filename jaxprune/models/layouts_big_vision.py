"""How big_vision and its forebears name the weights of vision transformers, in npz files.

Its attention keeps heads and their dimensions as axes of their own: kernels are [d, heads, dim], that of the output is
[heads, dim, d].
"""

from collections.abc import Mapping

import numpy as np

from jaxprune.models.layouts_vit import refuse
from jaxprune.models.mapping import Arrays, Layout, Rule, reshaped, same
from jaxprune.models.positions import sines
from jaxprune.models.vit import BlockShape, ViT


def big_vision_vit(module: ViT) -> Layout:
    """Lays out a vision transformer as big_vision does: ``embedding/kernel``, ``Transformer/encoderblock_0``.

    Its class token has no position; here that is zero, and is added to the token when it is written.
    """
    names = ("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
    shape = (module.token_count, module.width)
    position = reshaped("pos_embedding", "params/position", (1, *shape), shape)
    return Layout((_class_token() if module.pool == "token" else position, *_rules(module, names)))


def augreg_vit(module: ViT) -> Layout:
    """Lays out a vision transformer as the first files do (AugReg): its layers are numbered across a block.

    Source: Steiner et al. (2021), arXiv 2106.10270.
    """
    names = ("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    shape = (module.token_count, module.width)
    position = reshaped("Transformer/posembed_input/pos_embedding", "params/position", (1, *shape), shape)
    token = reshaped("cls", "params/class_token", (1, 1, module.width), (module.width,))
    return Layout((*([token] if module.pool == "token" else []), position, *_rules(module, names)))


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Brings a file to big_vision's names of today, as its own loader does, and refuses what ``vit`` does not make.

    For a time files kept the positions in the encoder, and the class token's among them; it is added to the token.

    Args:
      tensors: all of a file's, by name.

    Returns:
      The same tensors, those two as they are today.

    Raises:
      ValueError: a network of another kind, see ``layouts_vit.refuse``.

    >>> table = np.ones((1, 5, 2), np.float32)
    >>> made = prepare({"cls": table[:, :1], "Transformer/pos_embedding": table})
    >>> made["pos_embedding"].shape, made["cls"].tolist()
    ((1, 4, 2), [[[2.0, 2.0]]])
    """
    refuse(tensors)
    made = dict(tensors)
    if "Transformer/pos_embedding" in made:
        made["pos_embedding"] = made.pop("Transformer/pos_embedding")
    table = made.get("pos_embedding")
    if table is not None and "cls" in made and table.ndim == 3 and _is_square(table.shape[1] - 1):
        made |= {"cls": made["cls"] + table[:, :1], "pos_embedding": table[:, 1:]}
    return made


def prepare_sines(tensors: Mapping[str, np.ndarray], image: int = 224) -> dict[str, np.ndarray]:
    """Prepares a file without positions: those of its network are sines and cosines, and are made for this image size.

    >>> prepare_sines({"embedding/kernel": np.zeros((16, 16, 3, 8), np.float32)})["pos_embedding"].shape
    (1, 196, 8)
    """
    made = prepare(tensors)
    kernel = made.get("embedding/kernel")
    if kernel is not None and kernel.ndim == 4 and "pos_embedding" not in made:
        made["pos_embedding"] = sines(image // kernel.shape[0], kernel.shape[-1]).astype(np.float32)[None]
    return made


def _is_square(number: int) -> bool:
    return number > 0 and round(number**0.5) ** 2 == number


def _class_token() -> Rule:
    def read(found: Arrays) -> Arrays:
        token, table = found[0][0, 0], found[1][0]
        return token, np.concatenate([np.zeros_like(table[:1]), table])

    def write(made: Arrays) -> Arrays:
        token, table = made
        # Left alone where nothing is added, so that a zero keeps its sign.
        token = np.where(table[0] == 0, token, token + table[0])
        return token[None, None], table[None, 1:]

    return Rule(("cls", "pos_embedding"), ("params/class_token", "params/position"), read, write)


def _rules(module: ViT, names: tuple[str, str, str, str]) -> list[Rule]:
    """The rules of all but token and positions; the names are those of a block's four layers."""
    rules = [*_layer("embedding", "embed")]
    for shape in module.blocks:
        block, (norm1, attention, norm2, mlp) = f"Transformer/encoderblock_{shape.number}", names
        if shape.heads:
            rules += _layer(f"{block}/{norm1}", f"{shape.name}/norm1", "scale")
            rules += _attention(shape, f"{block}/{attention}", module)
        if shape.hidden:
            rules += _layer(f"{block}/{norm2}", f"{shape.name}/norm2", "scale")
            rules += _layer(f"{block}/{mlp}/Dense_0", f"{shape.name}/mlp/hidden")
            rules += _layer(f"{block}/{mlp}/Dense_1", f"{shape.name}/mlp/output")
    rules += _layer("Transformer/encoder_norm", "norm", "scale")
    return rules + (list(_layer("head", "head")) if module.classes else [])


def _attention(shape: BlockShape, theirs: str, module: ViT) -> list[Rule]:
    ours, heads, width = f"params/{shape.name}/attention", (shape.heads, module.head_width), module.width
    flat = shape.heads * module.head_width
    rules = []
    for part in ("query", "key", "value"):
        rules.append(reshaped(f"{theirs}/{part}/kernel", f"{ours}/{part}/kernel", (width, *heads), (width, flat)))
        rules.append(reshaped(f"{theirs}/{part}/bias", f"{ours}/{part}/bias", heads, (flat,)))
    rules.append(reshaped(f"{theirs}/out/kernel", f"{ours}/output/kernel", (*heads, width), (flat, width)))
    return [*rules, same(f"{theirs}/out/bias", f"{ours}/output/bias")]


def _layer(theirs: str, ours: str, kernel: str = "kernel") -> tuple[Rule, Rule]:
    return same(f"{theirs}/{kernel}", f"params/{ours}/{kernel}"), same(f"{theirs}/bias", f"params/{ours}/bias")
