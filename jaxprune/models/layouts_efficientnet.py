"""How the package efficientnet_lite_pytorch names the weights of EfficientNet-Lite."""

from jaxprune.models.efficientnet import EfficientNetLite
from jaxprune.models.efficientnet_blocks import BlockShape
from jaxprune.models.layouts_resnet import COUNTER, convolution_norm
from jaxprune.models.mapping import Layout, Rule, dense


def efficientnet_lite(module: EfficientNetLite) -> Layout:
    """Lays out an EfficientNet-Lite: ``_conv_stem``, ``_blocks.0``, ``_conv_head``, ``_fc``; blocks in one count.

    The depthwise kernels [c, 1, h, w] are ours as [h, w, 1, c], as those of any convolution.
    """
    rules = [*convolution_norm("_conv_stem", "_bn0", "stem", "conv", "norm")]
    for number, shape in enumerate(module.blocks):
        rules += _block(shape, f"_blocks.{number}")
    rules += convolution_norm("_conv_head", "_bn1", "top", "conv", "norm")
    rules += dense("_fc", "head") if module.classes else ()
    return Layout(tuple(rules), COUNTER)


def _block(shape: BlockShape, theirs: str) -> list[Rule]:
    layers = {"expand": ("_bn0", "norm1"), "depthwise": ("_bn1", "norm2"), "project": ("_bn2", "norm3")}
    rules: list[Rule] = []
    for ours, (bn, our_norm) in layers.items():
        if shape.hidden or ours != "expand":
            rules += convolution_norm(f"{theirs}._{ours}_conv", f"{theirs}.{bn}", shape.name, ours, our_norm)
    return rules
