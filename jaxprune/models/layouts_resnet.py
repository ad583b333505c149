"""How other libraries name the weights of residual networks: torchvision, MoCo, DINO, CLIP."""

from jaxprune.models.clip_resnet import ClipResNet
from jaxprune.models.layouts_vit import BESIDE_CLIP
from jaxprune.models.mapping import Layout, Rule, convolution, dense, norm, same
from jaxprune.models.resnet import ResNet
from jaxprune.models.resnet_blocks import BlockShape

COUNTER = {r".*num_batches_tracked": "PyTorch counts the batches of a training, which nothing here uses"}


def torchvision_resnet(module: ResNet) -> Layout:
    """Lays out a ResNet as torchvision does: ``conv1``, ``layer1.0.conv1``, ``fc``; without ``fc`` for 0 classes."""
    rules = [*convolution_norm("conv1", "bn1", "stem", "conv", "norm"), *_blocks(module)]
    rules += dense("fc", "head") if module.classes else ()
    return Layout(tuple(rules), COUNTER)


def moco_resnet(module: ResNet) -> Layout:
    """Lays out the query encoder of MoCo v2, whose last layer is a projection that is used in training only."""
    dropped = {
        r"(.*\.)?encoder_k\..*": "the key encoder, a moving average of the query encoder",
        r"(.*\.)?queue(_ptr)?": "the queue of keys of other images",
        r"fc\.[02]\.(weight|bias)": "the projection head, which pretraining alone uses",
    }
    return Layout(torchvision_resnet(module).rules, COUNTER | dropped)


def dino_resnet(module: ResNet) -> Layout:
    """Lays out DINO's backbone, of torchvision's names and without ``fc``; the head of its pretraining is dropped."""
    dropped = {r"(.*\.)?head\..*": "the projection head, which pretraining alone uses"}
    return Layout(torchvision_resnet(module).rules, COUNTER | dropped)


def clip_resnet(module: ClipResNet) -> Layout:
    """Lays out the image tower of CLIP, ``visual``; the last projection of its ``attnpool`` is our head."""
    rules = [same("visual.attnpool.positional_embedding", "params/pool/position")]
    for number in (1, 2, 3):
        names = (f"visual.conv{number}", f"visual.bn{number}")
        rules += convolution_norm(*names, "stem", f"conv{number}", f"norm{number}")
    rules += _blocks(module, "visual.")
    for theirs, ours in {"q": "query", "k": "key", "v": "value"}.items():
        rules += dense(f"visual.attnpool.{theirs}_proj", f"pool/{ours}")
    rules += dense("visual.attnpool.c_proj", "head") if module.classes else ()
    return Layout(tuple(rules), COUNTER | BESIDE_CLIP)


def convolution_norm(conv: str, bn: str, block: str, our_conv: str, our_norm: str) -> tuple[Rule, ...]:
    """Takes a convolution without bias, and its BatchNorm with the statistics."""
    ours = f"{block}/{our_norm}"
    return (
        convolution(f"{conv}.weight", f"params/{block}/{our_conv}/kernel"),
        *norm(bn, ours),
        same(f"{bn}.running_mean", f"batch_stats/{ours}/mean"),
        same(f"{bn}.running_var", f"batch_stats/{ours}/var"),
    )


def _blocks(module: ResNet | ClipResNet, prefix: str = "") -> list[Rule]:
    """The rules of all blocks, which torchvision and CLIP name alike."""
    rules: list[Rule] = []
    for shape in module.blocks:
        rules += _block(shape, f"{prefix}layer{shape.stage}.{shape.number}", module.projects(shape))
    return rules


def _block(shape: BlockShape, theirs: str, projects: bool) -> list[Rule]:
    rules: list[Rule] = []
    for number in range(1, len(shape.inner) + 2):
        names = (f"{theirs}.conv{number}", f"{theirs}.bn{number}")
        rules += convolution_norm(*names, shape.name, f"conv{number}", f"norm{number}")
    if projects:
        names = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
        rules += convolution_norm(*names, shape.name, "projection", "projection_norm")
    return rules
