"""How PyTorch's libraries name the weights of vision transformers: torchvision, timm (and DeiT), DINO, CLIP.

All of them keep query, key and value in one matrix [3 d, d], in this order, the heads contiguous within each.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxprune.models.mapping import Layout, Rule, convolution, dense, fused, norm, reshaped, same
from jaxprune.models.vit import BlockShape, ViT

# What CLIP's files hold beside the image tower, whichever network that is.
BESIDE_CLIP = {
    r"(transformer\..*|token_embedding\.weight|positional_embedding|ln_final\..*|text_projection|text\..*)": (
        "the text tower"
    ),
    r"logit_(scale|bias)": "the scale of the logits in training; jaxprune.models.zero_shot takes one",
    r"(input_resolution|context_length|vocab_size)": "a number that the shapes say already",
}

# What networks have that are no plain vision transformers, as regular expressions of whole names.
REFUSED = {
    r"(.*\.)?(dist_token|head_dist\..*)": "a distilled DeiT, which has a second class token and a second head",
    r"(.*\.)?fc_norm\..*": "a network that normalises the mean over the patches, after pooling",
    r"(.*\.)?(ls[12]|gamma_[12])(\..*)?": "a network with LayerScale, as DeiT III and DINOv2",
    r"(.*\.)?(reg_token|register_tokens)": "a network with register tokens",
    r"(.*\.)?attn\.[qk]_norm\..*": "a network that normalises queries and keys",
    r"(.*\.)?patch_embed\.backbone\..*": "a hybrid, with a residual network in place of the patch embedding",
    r"(.*\.)?(attn_pool.*|MAPHead_0/.*|probe)": "a network that pools by attention",
    r"(.*[./])?pre_logits[./].*": "a network with another layer before its head",
}


def refuse(names: Iterable[str]) -> None:
    """Refuses a file of a transformer that ``vit`` does not make.

    Args:
      names: the names of the file's tensors.

    Raises:
      ValueError: a name that tells such a network, with what it is.

    >>> refuse(["cls_token", "pos_embed"])
    """
    for name in names:
        for pattern, what in REFUSED.items():
            if re.fullmatch(pattern, name):
                raise ValueError(
                    f"weights: expected a plain vision transformer, but got {what} (its tensor {name!r}). Take the "
                    "plain network of the same size."
                )


def torchvision_vit(module: ViT) -> Layout:
    """Lays out a vision transformer as torchvision does: ``conv_proj``, ``encoder.layers.encoder_layer_0``."""
    block = "encoder.layers.encoder_layer_{}"
    attention = ("self_attention.in_proj_weight", "self_attention.in_proj_bias", "self_attention.out_proj")
    names = _Names(block, "ln_1", *attention, "ln_2", "mlp.0", "mlp.3")
    rules = (
        reshaped("class_token", "params/class_token", (1, 1, module.width), (module.width,)),
        _position("encoder.pos_embedding", module),
        *_embedding("conv_proj", module),
        *_blocks(module, names),
        *norm("encoder.ln", "norm"),
        *(dense("heads.head", "head") if module.classes else ()),
    )
    return Layout(rules)


def prepare_torchvision(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Brings the names of torchvision's first vision transformers to today's: ``mlp.linear_1`` is ``mlp.0``.

    >>> list(prepare_torchvision({"encoder.layers.encoder_layer_0.mlp.linear_2.bias": np.zeros(3)}))
    ['encoder.layers.encoder_layer_0.mlp.3.bias']
    """
    today = {".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.3."}
    return {re.sub(r"\.mlp\.linear_[12]\.", lambda found: today[found[0]], name): one for name, one in tensors.items()}


def prepare_timm(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Refuses a file of timm, DeiT or DINO whose network ``vit`` does not make, see ``refuse``."""
    refuse(tensors)
    return dict(tensors)


def timm_vit(module: ViT) -> Layout:
    """Lays out a vision transformer as timm and DeiT do: ``patch_embed.proj``, ``blocks.0.attn.qkv``, ``head``."""
    return Layout(_timm_rules(module))


def dino_vit(module: ViT) -> Layout:
    """Lays out DINO's backbone, of timm's names and without a head; what else a checkpoint holds is dropped."""
    dropped = {
        r"(teacher\.(module\.)?)?head\.(mlp|last_layer)\..*": "the projection head, which pretraining alone uses",
        r"student\..*": "the student, whose moving average the teacher is",
    }
    return Layout(_timm_rules(module), dropped)


def clip_vit(module: ViT) -> Layout:
    """Lays out the image tower of CLIP, ``visual``; its projection, kept as [in, out], is our head."""
    block = "visual.transformer.resblocks.{}"
    names = _Names(
        block, "ln_1", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"
    )
    rules = (
        same("visual.class_embedding", "params/class_token"),
        same("visual.positional_embedding", "params/position"),
        *_embedding("visual.conv1", module),
        *norm("visual.ln_pre", "pre_norm"),
        *_blocks(module, names),
        *norm("visual.ln_post", "norm"),
        *([same("visual.proj", "params/head/kernel")] if module.classes else []),
    )
    return Layout(rules, BESIDE_CLIP)


def _timm_rules(module: ViT) -> tuple[Rule, ...]:
    names = _Names("blocks.{}", "norm1", "attn.qkv.weight", "attn.qkv.bias", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    return (
        reshaped("cls_token", "params/class_token", (1, 1, module.width), (module.width,)),
        _position("pos_embed", module),
        *_embedding("patch_embed.proj", module),
        *_blocks(module, names),
        *norm("norm", "norm"),
        *(dense("head", "head") if module.classes else ()),
    )


class _Names(NamedTuple):
    block: str
    norm1: str
    weight: str
    bias: str
    output: str
    norm2: str
    hidden: str
    narrow: str


def _blocks(module: ViT, names: _Names) -> list[Rule]:
    """The rules of all blocks, without those of branches that are gone."""
    rules: list[Rule] = []
    for shape in module.blocks:
        theirs = names.block.format(shape.number)
        rules += _attention(shape, theirs, names) if shape.heads else ()
        if shape.hidden:
            rules += norm(f"{theirs}.{names.norm2}", f"{shape.name}/norm2")
            rules += dense(f"{theirs}.{names.hidden}", f"{shape.name}/mlp/hidden")
            rules += dense(f"{theirs}.{names.narrow}", f"{shape.name}/mlp/output")
    return rules


def _attention(shape: BlockShape, theirs: str, names: _Names) -> tuple[Rule, ...]:
    ours = f"{shape.name}/attention"
    kernels, biases = (
        [f"params/{ours}/{part}/{leaf}" for part in ("query", "key", "value")] for leaf in ("kernel", "bias")
    )
    return (
        *norm(f"{theirs}.{names.norm1}", f"{shape.name}/norm1"),
        fused(f"{theirs}.{names.weight}", kernels),
        fused(f"{theirs}.{names.bias}", biases, matrix=False),
        *dense(f"{theirs}.{names.output}", f"{ours}/output"),
    )


def _embedding(theirs: str, module: ViT) -> tuple[Rule, ...]:
    kernel = convolution(f"{theirs}.weight", "params/embed/kernel")
    return (kernel, same(f"{theirs}.bias", "params/embed/bias")) if module.embed_bias else (kernel,)


def _position(theirs: str, module: ViT) -> Rule:
    shape = (module.token_count, module.width)
    return reshaped(theirs, "params/position", (1, *shape), shape)
