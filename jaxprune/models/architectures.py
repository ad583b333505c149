"""The networks of other libraries that can be loaded: their shapes, names in files, and preprocessing."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxprune.models import layouts_big_vision, layouts_efficientnet, layouts_resnet, layouts_swin, layouts_vit
from jaxprune.models.clip_resnet import clip_resnet
from jaxprune.models.clip_resnet import resized as resized_clip_resnet
from jaxprune.models.efficientnet import SIZES as EFFICIENTNETS
from jaxprune.models.efficientnet import efficientnet_lite
from jaxprune.models.mapping import Layout
from jaxprune.models.positions import resized
from jaxprune.models.resnet import resnet
from jaxprune.models.swin import swin_v2
from jaxprune.models.vit import vit
from jaxprune.types import Preprocess

Tensors = Mapping[str, np.ndarray]


class Head(NamedTuple):
    """The tensor that says how many outputs a network has, and on which axis."""

    tensor: str
    axis: int = 0


class Positions(NamedTuple):
    """The tensor of learned positions [..., tokens, d], pixels from one to the next, and tokens that are no patches."""

    tensor: str
    patch: int
    others: int = 1


@dataclass(frozen=True)
class Architecture:
    """A network of another library.

    Attributes:
      name: "source/network".
      module: (classes, image) -> module.
      layout: how a file holds this module.
      preprocess: image -> the source's evaluation transform, for the published weights.
      first: a tensor that every file of it has; the prefix is what stands before it.
      prefixes: what may stand before the names, in the order in which they are tried.
      prepare: brings older files to today's names, and refuses those of networks that we have not.
      head: where the number of classes is read.  None: it has no head, and the outputs are features.
      positions: where the image size is read.  None: the network takes any.
      resize: (module, params, image) -> (module, params) for another image size.  None: nothing need be done.
      classes: the outputs of the published network.
      image: height and width of its images.
    """

    name: str
    module: Callable[[int, int], Any]
    layout: Callable[[Any], Layout]
    preprocess: Callable[[int], Preprocess]
    first: str
    prefixes: tuple[str, ...]
    prepare: Callable[[Tensors], Tensors] = dict
    head: Head | None = None
    positions: Positions | None = None
    resize: Callable[[Any, Any, int], tuple[Any, Any]] | None = None
    classes: int = 1000
    image: int = 224


# What trainers wrap around the names: a checkpoint's dictionary, data-parallel training, a compiled module.
_CONTAINERS = ("state_dict.", "model.", "")
_MODULES = ("module._orig_mod.", "_orig_mod.module.", "_orig_mod.", "module.", "")
WRAPPED = tuple(f"{outer}{inner}" for outer in _CONTAINERS for inner in _MODULES)
# DINO's full checkpoints hold a teacher and a student; the teacher is what is published.
_DINO = ("teacher.module.backbone.", "teacher.backbone.", "backbone.", *WRAPPED)
_MOCO = ("state_dict.module.encoder_q.", "module.encoder_q.", *WRAPPED)

_HALVES = (0.5, 0.5, 0.5)
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _scaled(image: int, *, resize: int = 256, crop: int = 224, **options: Any) -> Preprocess:
    """The transform of the published size; at another one the same share is cut off."""
    return Preprocess(resize=round(resize * image / crop), crop=image, **options)


def _timm(image: int, **options: Any) -> Preprocess:
    # timm evaluates at nine tenths of the image, but all of it from 384 pixels on.
    share = 0.9 if image < 384 else 1.0
    return Preprocess(resize=math.floor(image / share), crop=image, interpolation="bicubic", **options)


_BICUBIC = partial(_scaled, interpolation="bicubic")
_WHOLE = partial(_BICUBIC, resize=224)


def _resnet(name: str, depth: int, layout: Any = layouts_resnet.torchvision_resnet, **options: Any) -> Architecture:
    settings: dict[str, Any] = {"prefixes": WRAPPED, "head": Head("fc.weight"), "preprocess": _scaled, **options}
    return Architecture(
        name, lambda classes, image: resnet(depth, classes), layout, first="layer1.0.conv1.weight", **settings
    )


def _efficientnet_lite(size: str) -> Architecture:
    image = EFFICIENTNETS[size].image
    # Its authors cut 16 pixels off every side, and normalise bytes: (byte - 127) / 128.
    preprocess = partial(_BICUBIC, resize=image + 32, crop=image, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    return Architecture(
        f"efficientnet_lite_pytorch/{size}",
        lambda classes, image: efficientnet_lite(size, classes),
        layouts_efficientnet.efficientnet_lite,
        preprocess,
        first="_conv_stem.weight",
        prefixes=WRAPPED,
        head=Head("_fc.weight"),
        image=image,
    )


def _vit(name: str, method: str, position: str, patch: int, shape: Mapping[str, Any], **options: Any) -> Architecture:
    settings: dict[str, Any] = {
        "prefixes": WRAPPED,
        "positions": Positions(position, patch),
        "resize": lambda module, params, image: resized(module, params, image, method=method),
        **options,
    }
    return Architecture(
        name, lambda classes, image: vit(patch=patch, image=image, classes=classes, **shape), **settings
    )


def _torchvision_vit(size: str, patch: int, ending: str = "", preprocess: Any = _scaled) -> Architecture:
    return _vit(
        f"torchvision/vit_{size}{patch}{ending}",
        "torchvision",
        "encoder.pos_embedding",
        patch,
        {"size": size},
        layout=layouts_vit.torchvision_vit,
        prepare=layouts_vit.prepare_torchvision,
        preprocess=preprocess,
        first="encoder.ln.weight",
        head=Head("heads.head.weight"),
    )


def _timm_vit(name: str, size: str, patch: int, **options: Any) -> Architecture:
    settings: dict[str, Any] = {
        "layout": layouts_vit.timm_vit,
        "prepare": layouts_vit.prepare_timm,
        "preprocess": partial(_timm, mean=_HALVES, std=_HALVES),
        "head": Head("head.weight"),
        **options,
    }
    return _vit(name, "timm", "pos_embed", patch, {"size": size}, first="blocks.0.norm1.weight", **settings)


def _dino_vit(size: str, patch: int) -> Architecture:
    return _vit(
        f"dino/vit_{size}{patch}",
        "dino",
        "pos_embed",
        patch,
        {"size": size},
        layout=layouts_vit.dino_vit,
        prepare=layouts_vit.prepare_timm,
        preprocess=_BICUBIC,
        first="blocks.0.norm1.weight",
        prefixes=_DINO,
        **_WITHOUT_HEAD,
    )


def _clip_vit(source: str, patch: int, activation: str) -> Architecture:
    shape = {
        "size": "b",
        "norm_epsilon": 1e-5,
        "activation": activation,
        "embed_bias": False,
        "pre_norm": True,
        "head_bias": False,
    }
    return _vit(
        f"{source}/vit_b{patch}",
        "timm",
        "visual.positional_embedding",
        patch,
        shape,
        layout=layouts_vit.clip_vit,
        head=Head("visual.proj", axis=1),
        classes=512,
        **_CLIP_OPTIONS,
    )


def _big_vision_vit(name: str, size: str, patch: int, pool: str = "mean", **options: Any) -> Architecture:
    settings: dict[str, Any] = {
        "layout": layouts_big_vision.big_vision_vit,
        "prepare": layouts_big_vision.prepare,
        "preprocess": partial(_scaled, mean=_HALVES, std=_HALVES),
        "prefixes": ("params/", "params."),
        "head": Head("head/kernel", axis=1),
        # Its class token has no position.
        "positions": Positions("pos_embedding", patch, others=0),
        **options,
    }
    shape = {"size": size, "activation": "gelu_tanh", "pool": pool}
    return _vit(name, "big_vision", "pos_embedding", patch, shape, first="embedding/kernel", **settings)


def _sines(module: Any, params: Any, image: int) -> tuple[Any, Any]:
    return resized(module, params, image, method="sines")


def _augreg_vit(size: str, patch: int) -> Architecture:
    return _big_vision_vit(
        f"augreg/vit_{size}{patch}",
        size,
        patch,
        "token",
        layout=layouts_big_vision.augreg_vit,
        prepare=layouts_vit.prepare_timm,
        positions=Positions("Transformer/posembed_input/pos_embedding", patch),
    )


_WITHOUT_HEAD: dict[str, Any] = {"head": None, "classes": 0}
_CLIP_OPTIONS: dict[str, Any] = {
    "preprocess": partial(_BICUBIC, resize=224, mean=_CLIP[0], std=_CLIP[1]),
    "first": "visual.conv1.weight",
    "prefixes": WRAPPED,
}
_SIZES = (("ti", "tiny"), ("s", "small"), ("b", "base"), ("l", "large"))
_DEIT: dict[str, Any] = {"preprocess": _timm}

_LISTED = (
    *(_resnet(f"torchvision/resnet{depth}", depth) for depth in (18, 34, 50, 101)),
    # Weights of a later recipe, IMAGENET1K_V2: no tensor tells them apart, but their preprocessing is another.
    *(_resnet(f"torchvision/resnet{depth}_v2", depth, preprocess=partial(_scaled, resize=232)) for depth in (50, 101)),
    _torchvision_vit("b", 16),
    _torchvision_vit("b", 32),
    _torchvision_vit("l", 16, preprocess=partial(_scaled, resize=242)),
    # Weights of SWAG, whose images are resized to the size itself, at whatever size.
    *(_torchvision_vit(size, 16, "_swag", _WHOLE) for size in ("b", "l")),
    Architecture(
        "torchvision/swin_v2_t",
        lambda classes, image: swin_v2("t", classes=classes),
        layouts_swin.torchvision_swin,
        partial(_BICUBIC, resize=260, crop=256),
        first="features.0.0.weight",
        prefixes=WRAPPED,
        head=Head("head.weight"),
        image=256,
    ),
    *map(_efficientnet_lite, EFFICIENTNETS),
    _resnet("moco_v2/resnet50", 50, layouts_resnet.moco_resnet, prefixes=_MOCO, **_WITHOUT_HEAD),
    _resnet("dino/resnet50", 50, layouts_resnet.dino_resnet, prefixes=_DINO, preprocess=_BICUBIC, **_WITHOUT_HEAD),
    *(_dino_vit(size, patch) for size, patch in (("s", 16), ("s", 8), ("b", 16), ("b", 8))),
    *(_timm_vit(f"timm/vit_{long}_patch16", short, 16) for short, long in _SIZES),
    *(_timm_vit(f"timm/vit_{long}_patch32", short, 32) for short, long in _SIZES[1:3]),
    *(_timm_vit(f"timm/deit_{long}_patch16", short, 16, **_DEIT) for short, long in _SIZES[:3]),
    *(_clip_vit("clip", patch, "quick_gelu") for patch in (32, 16)),
    # The same names and shapes, but most networks of OpenCLIP (those of LAION) have the exact GELU.
    *(_clip_vit("open_clip", patch, "gelu") for patch in (32, 16)),
    Architecture(
        "clip/resnet50",
        lambda classes, image: clip_resnet(image, classes),
        layouts_resnet.clip_resnet,
        head=Head("visual.attnpool.c_proj.weight"),
        positions=Positions("visual.attnpool.positional_embedding", 32),
        resize=resized_clip_resnet,
        classes=1024,
        **_CLIP_OPTIONS,
    ),
    *(
        _big_vision_vit(f"big_vision/vit_{size}{patch}{ending}", size, patch, pool)
        for size, patch in (("s", 16), ("b", 16), ("b", 32), ("l", 16))
        for ending, pool in (("", "mean"), ("_token", "token"))
    ),
    _big_vision_vit(
        "big_vision/vit_s16_sines", "s", 16, prepare=layouts_big_vision.prepare_sines, positions=None, resize=_sines
    ),
    *(_augreg_vit(size, patch) for size, patch in (("ti", 16), ("s", 16), ("b", 16), ("b", 32), ("l", 16))),
)

ARCHITECTURES: Mapping[str, Architecture] = {one.name: one for one in _LISTED}
"""The networks that can be loaded, by "source/network"."""
