"""Writes what PyTorch's libraries answer for transformers, for the tests and scripts/benchmark_pretrained.py.

Run it with a Python that has PyTorch, torchvision, timm, open_clip_torch and NumPy:
``python scripts/golden_pretrained_vit.py``.  No weight is stored: both sides fill their networks by ``golden_weights``.
It writes into tests/models/golden:

  vit_keys.json       names and shapes of every tensor of the small networks
  vit_outputs.npz     their outputs, features, and probabilities of attention, at two image sizes
  vit_positions.npz   grids, resampled by PyTorch in every way that a library uses
  vit_full.json       of the networks at full depth: a hash of names and shapes, and a few outputs at two image sizes
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_weights import bits, fill, images
from torch import nn

# Where torchvision's compiled operations do not fit PyTorch, it cannot be imported unless their names are known.
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
from open_clip.transformer import LayerNorm, QuickGELU  # noqa: E402
from open_clip.transformer import VisionTransformer as ClipTransformer  # noqa: E402
from timm.layers import resample_abs_pos_embed  # noqa: E402
from timm.models import vision_transformer as timm_models  # noqa: E402
from torchvision.models import swin_transformer, vision_transformer  # noqa: E402

FOLDER = Path(__file__).parents[1] / "tests/models/golden"
# So many queries' probabilities, and so many outputs of a network at full depth.
QUERIES, OUTPUTS = 8, 32
GRIDS = ((7, 12), (14, 10), (14, 16), (14, 32), (28, 20), (4, 6), (3, 1))


class Case:
    """A network of a library: how it is made, its positions at another image size, and where its attention is."""

    def __init__(
        self,
        make: Callable[[int], nn.Module],
        image: int,
        resample: Callable[[torch.Tensor, int], torch.Tensor],
        position: str,
        patch: int,
        prefix: str = "",
    ) -> None:
        self.make, self.image, self.resample = make, image, resample
        self.position, self.patch, self.prefix = position, patch, prefix

    def shapes(self) -> dict[str, list[int]]:
        """Names and shapes of all tensors."""
        with torch.device("meta"):
            network = self.make(self.image)
        return {f"{self.prefix}{name}": list(value.shape) for name, value in network.state_dict().items()}

    def filled(self, size: int) -> nn.Module:
        """Fills the network as it would come from a file, and takes it to this image size."""
        network = self.make(size).eval()
        side = size // self.patch
        for name, value in network.named_parameters():
            shape = list(value.shape)
            old = self.image // self.patch
            if name == self.position:
                others = value.shape[-2] - side * side
                shape[-2] = old * old + others
            made = torch.tensor(fill(f"{self.prefix}{name}", shape))
            if name == self.position and side != old:
                tokens, grid = made.reshape(-1, shape[-1]).split([others, old * old])
                grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
                grid = self.resample(grid, side).permute(0, 2, 3, 1).reshape(side * side, -1)
                made = torch.cat([tokens, grid]).reshape(value.shape)
            value.data.copy_(made)
        return network


class SwinCase(Case):
    """A Swin transformer, which takes any image."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self.make, self.image, self.prefix, self.position, self.patch = lambda image: make(), 0, "", "", 1


def torchvision_resample(grid: torch.Tensor, side: int) -> torch.Tensor:
    """Torchvision's own function, which wants a file of weights."""
    table = torch.cat([grid[:, :, :1, :1].flatten(2), grid.flatten(2)], 2).permute(0, 2, 1)
    state = vision_transformer.interpolate_embeddings(side, 1, {"encoder.pos_embedding": table})
    made = state["encoder.pos_embedding"][:, 1:]
    return made.permute(0, 2, 1).reshape(1, -1, side, side)


def timm_resample(grid: torch.Tensor, side: int) -> torch.Tensor:
    """Timm's own function."""
    table = grid.flatten(2).permute(0, 2, 1)
    made = resample_abs_pos_embed(table, [side, side], num_prefix_tokens=0)
    return made.permute(0, 2, 1).reshape(1, -1, side, side)


def dino_resample(grid: torch.Tensor, side: int) -> torch.Tensor:
    """DINO's way: PyTorch is given scales that are a little too large."""
    scale = (side + 0.1) / grid.shape[-1]
    made = nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    assert made.shape[-1] == side
    return made


def plain_resample(grid: torch.Tensor, side: int) -> torch.Tensor:
    """The usual cubic interpolation."""
    return nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)


def torchvision_vit(width: int, heads: int, depth: int, patch: int, image: int, classes: int) -> Case:
    """Torchvision's vision transformer."""

    def make(size: int) -> nn.Module:
        return vision_transformer.VisionTransformer(size, patch, depth, heads, width, 4 * width, num_classes=classes)

    return Case(make, image, torchvision_resample, "encoder.pos_embedding", patch)


def timm_vit(
    width: int, heads: int, depth: int, patch: int, image: int, classes: int, resample: Any = timm_resample
) -> Case:
    """Timm's vision transformer; with no classes and DINO's positions, it is DINO's."""

    def make(size: int) -> nn.Module:
        return timm_models.VisionTransformer(
            size, patch, num_classes=classes, embed_dim=width, depth=depth, num_heads=heads
        )

    return Case(make, image, resample, "pos_embed", patch)


def timm_named(name: str) -> Case:
    """A network that timm names."""
    return Case(lambda size: timm.create_model(name, img_size=size), 224, timm_resample, "pos_embed", 16)


def clip_vit(width: int, heads: int, depth: int, patch: int, image: int, classes: int) -> Case:
    """The image tower of CLIP; it knows no other image sizes, so timm's way is taken."""

    def make(size: int) -> nn.Module:
        options: Any = {"output_dim": classes, "act_layer": QuickGELU, "norm_layer": LayerNorm}
        return ClipTransformer(size, patch, width, depth, heads, 4.0, **options)

    return Case(make, image, timm_resample, "positional_embedding", patch, "visual.")


def swin(**settings: Any) -> SwinCase:
    """Torchvision's Swin-V2, made anew each time: one that has seen a map of one window stops shifting for good."""
    return SwinCase(
        lambda: swin_transformer.SwinTransformer(
            **settings,
            block=swin_transformer.SwinTransformerBlockV2,
            downsample_layer=swin_transformer.PatchMergingV2,
        )
    )


TINY = {"width": 192, "heads": 3, "depth": 2, "image": 64}
REDUCED: dict[str, tuple[Case, tuple[Any, ...]]] = {
    "torchvision_vit": (torchvision_vit(**TINY, patch=16, classes=10), (64, 96)),
    "timm_vit": (timm_vit(**TINY, patch=16, classes=10), (64, 48)),
    "dino_vit": (timm_vit(**TINY, patch=8, classes=0, resample=dino_resample), (64, 80)),
    "clip_vit": (clip_vit(**TINY, patch=16, classes=32), (64, 96)),
    "torchvision_swin": (
        swin(
            patch_size=[4, 4],
            embed_dim=96,
            depths=[2, 2],
            num_heads=[3, 6],
            window_size=[8, 8],
            num_classes=10,
        ),
        ((96, 96), (52, 76)),
    ),
}

BASE, SMALL = {"width": 768, "heads": 12, "depth": 12}, {"width": 384, "heads": 6, "depth": 12}
LARGE = {"width": 1024, "heads": 16, "depth": 24}
FULL: dict[str, tuple[Case, tuple[Any, ...]]] = {
    "torchvision/vit_b16": (torchvision_vit(**BASE, patch=16, image=224, classes=1000), (224, 256)),
    "torchvision/vit_b32": (torchvision_vit(**BASE, patch=32, image=224, classes=1000), (224, 288)),
    "torchvision/vit_l16": (torchvision_vit(**LARGE, patch=16, image=224, classes=1000), (224, 256)),
    "torchvision/swin_v2_t": (
        swin(patch_size=[4, 4], embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=[8, 8]),
        ((256, 256), (224, 224)),
    ),
    "dino/vit_s16": (timm_vit(**SMALL, patch=16, image=224, classes=0, resample=dino_resample), (224, 256)),
    "dino/vit_s8": (timm_vit(**SMALL, patch=8, image=224, classes=0, resample=dino_resample), (224, 240)),
    "dino/vit_b16": (timm_vit(**BASE, patch=16, image=224, classes=0, resample=dino_resample), (224, 256)),
    "timm/vit_base_patch16": (timm_named("vit_base_patch16_224"), (224, 256)),
    "timm/deit_small_patch16": (timm_named("deit_small_patch16_224"), (224, 256)),
    "timm/deit_base_patch16": (timm_named("deit_base_patch16_224"), (224, 256)),
    "clip/vit_b32": (clip_vit(**BASE, patch=32, image=224, classes=512), (224, 288)),
    "clip/vit_b16": (clip_vit(**BASE, patch=16, image=224, classes=512), (224, 256)),
}


def shapes_hash(shapes: dict[str, Any]) -> str:
    """The first digits of the SHA-256 of names and shapes, in the order of the names."""
    return hashlib.sha256(json.dumps(sorted(shapes.items())).encode()).hexdigest()[:16]


def pictures(size: Any, count: int) -> torch.Tensor:
    """The images of a side, or of a height and a width, as PyTorch wants them."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.tensor(images(max(height, width), count)[:, :height, :width]).permute(0, 3, 1, 2)


def answers(case: Case, size: Any, name: str) -> dict[str, np.ndarray]:
    """Outputs, features, and probabilities of the last attention, of two images."""
    network, seen = case.filled(size if isinstance(size, int) else max(size)), {}
    last, norm = _last(network, name)
    with torch.no_grad():
        _watch(last, seen)
        norm.register_forward_hook(lambda module, inputs, output: seen.update(norm=output))
        outputs = network(pictures(size, 2))
    tokens = seen["norm"]
    features = tokens.mean((1, 2)) if tokens.ndim == 4 else tokens if tokens.ndim == 2 else tokens[:, 0]
    probabilities = seen["attention"][:4, :, :QUERIES]
    made = {"outputs": outputs, "features": features, "attention": probabilities}
    return {key: value.detach().numpy() for key, value in made.items()}


def _last(network: Any, name: str) -> tuple[Any, Any]:
    if name == "torchvision_vit":
        return network.encoder.layers[-1].self_attention, network.encoder.ln
    if name == "clip_vit":
        return network.transformer.resblocks[-1].attn, network.ln_post
    if name == "torchvision_swin":
        return None, network.norm
    return network.blocks[-1].attn, network.norm


def _watch(attention: Any, seen: dict[str, Any]) -> None:
    """Keeps the probabilities: as PyTorch's module returns them if asked, before timm's dropout, or after a softmax."""
    if isinstance(attention, nn.MultiheadAttention):
        plain = attention.forward

        def forward(*inputs: Any, **options: Any) -> Any:
            options |= {"need_weights": True, "average_attn_weights": False}
            output, seen["attention"] = plain(*inputs, **options)
            return output, None

        attention.forward = forward
    elif attention is None:
        softmax = nn.functional.softmax

        def watched(*inputs: Any, **options: Any) -> Any:
            seen["attention"] = softmax(*inputs, **options)
            return seen["attention"]

        swin_transformer.F = _with_softmax(watched)
    else:
        attention.fused_attn = False
        attention.attn_drop.register_forward_hook(lambda module, inputs, output: seen.update(attention=output))


def _with_softmax(softmax: Callable[..., Any]) -> Any:
    class Functions:
        def __getattr__(self, name: str) -> Any:
            return softmax if name == "softmax" else getattr(nn.functional, name)

    return Functions()


def reduced() -> None:
    """Writes names, shapes and answers of the small networks."""
    keys, arrays = {}, {}
    for name, (case, sizes) in REDUCED.items():
        keys[name] = case.shapes()
        for size in sizes:
            text = str(size) if isinstance(size, int) else "x".join(map(str, size))
            arrays |= {f"{name}/{text}/{key}": value for key, value in answers(case, size, name).items()}
    (FOLDER / "vit_keys.json").write_text(json.dumps(keys, indent=0) + "\n")
    np.savez_compressed(FOLDER / "vit_outputs.npz", **arrays)


def positions() -> None:
    """Writes resampled grids."""
    ways = {"timm": timm_resample, "torchvision": torchvision_resample, "dino": dino_resample, "cubic": plain_resample}
    arrays = {}
    for old, new in GRIDS:
        grid = torch.tensor(bits(f"grid/{old}", (old, old, 2))).permute(2, 0, 1)[None]
        for way, resample in ways.items():
            arrays[f"{way}/{old}/{new}"] = resample(grid, new)[0].permute(1, 2, 0).numpy()
    np.savez_compressed(FOLDER / "vit_positions.npz", **arrays)


def full() -> None:
    """Writes hashes and a few outputs of the networks at full depth, one image at each size."""
    made = {}
    for name, (case, sizes) in FULL.items():
        outputs = {}
        for size in sizes:
            side = size if isinstance(size, int) else max(size)
            with torch.no_grad():
                found = case.filled(side)(pictures(size, 1))
            outputs[str(side)] = found[0, :OUTPUTS].tolist()
        made[name] = {"shapes": shapes_hash(case.shapes()), "outputs": outputs}
    (FOLDER / "vit_full.json").write_text(json.dumps(made, indent=0) + "\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    positions()
    reduced()
    full()
