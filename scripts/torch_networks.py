"""The networks of ``tests/structured/discovery/twelve.py`` that PyTorch has the parts for, written in PyTorch."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

CLASSES = 4


class Conv(nn.Sequential):
    """A convolution, a BatchNorm and an activation."""

    def __init__(self, before: int, width: int, kernel: int = 3, groups: int = 1, activation: type = nn.ReLU) -> None:
        convolution = nn.Conv2d(before, width, kernel, padding=kernel // 2, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(width), activation())


class VGG(nn.Module):
    """Two convolutions, flattened, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Conv(3, 6), Conv(6, 8)])
        self.hidden, self.head = nn.Linear(32, 12), nn.Linear(12, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = functional.max_pool2d(block(x), 2)
        return self.head(functional.relu(self.hidden(x.flatten(1))))


class DenseNet(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, widths = Conv(3, 8), (8, 12)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.inner = nn.ModuleList(Conv(width, 8, 1) for width in widths)
        self.grow = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=1) for _ in widths)
        self.last, self.head = Conv(16, 10, 1), nn.Linear(10, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, inner, grow in zip(self.norms, self.inner, self.grow, strict=True):
            x = torch.cat([x, grow(inner(functional.relu(norm(x))))], 1)
        return self.head(self.last(x).mean((2, 3)))


class MobileNet(nn.Module):
    """Inverted residuals with convolutions of each channel by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, before = Conv(3, 6), nn.ModuleList(), 6
        for width in (6, 8):
            inner = [Conv(before, 12, 1, activation=nn.ReLU6), Conv(12, 12, 3, 12, nn.ReLU6)]
            self.blocks.append(nn.Sequential(*inner, Conv(12, width, 1, activation=nn.Identity)))
            before = width
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.blocks[0](x)
        return self.head(self.blocks[1](x).mean((2, 3)))


class ResNeXt(nn.Module):
    """Residual blocks whose middle is a convolution in four groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(Conv(8, 12, 1), Conv(12, 12, 3, 4), Conv(12, 8, 1, activation=nn.Identity)) for _ in range(2)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = functional.relu(x + block(x))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and both side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep, self.up = Conv(3, 6), Conv(6, 8), nn.ConvTranspose2d(8, 6, 2, 2)
        self.last, self.head = Conv(12, 8), nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        up = self.up(self.deep(functional.max_pool2d(first, 2)))
        return self.head(self.last(torch.cat([first, up], 1))).mean((2, 3))


class ShuffleNet(nn.Module):
    """Two halves, one convolved, interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(Conv(4, 4, 1), Conv(4, 4, 3, 4, nn.Identity), Conv(4, 4, 1)) for _ in range(2)
        )
        self.last, self.head = Conv(8, 10, 1), nn.Linear(10, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            left, right = x.chunk(2, 1)
            x = torch.stack([left, block(right)], 2).flatten(1, 2)
        return self.head(self.last(x).mean((2, 3)))


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze, self.excite = Conv(3, 8), nn.Linear(8, 4), nn.Linear(4, 8)
        self.last, self.head = Conv(8, 6), nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.sigmoid(self.excite(functional.silu(self.squeeze(x.mean((2, 3))))))
        return self.head(self.last(x * y[:, :, None, None]).mean((2, 3)))


class Attention(nn.Module):
    """Queries, keys and values in one kernel; ``shared`` queries for every key."""

    def __init__(self, width: int, heads: int, shared: int, size: int) -> None:
        super().__init__()
        self.heads, self.shared = heads, shared
        self.qkv, self.out = nn.Linear(width, (shared + 2) * heads * size), nn.Linear(shared * heads * size, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        sizes = [self.shared * self.heads, self.heads, self.heads]
        whole = self.qkv(x)
        size = whole.shape[-1] // sum(sizes)
        parts = whole.split([one * size for one in sizes], -1)
        q, k, v = (one.reshape(b, t, heads, size).transpose(1, 2) for one, heads in zip(parts, sizes, strict=True))
        if self.shared > 1:
            k, v = (one.repeat_interleave(self.shared, 1) for one in (k, v))
        mixed = (q @ k.transpose(-1, -2) / size**0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, t, -1))


class Gated(nn.Module):
    """A gated MLP, both halves in one kernel."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.both(x).chunk(2, -1)
        return self.out(functional.silu(left) * right)


class Transformer(nn.Module):
    """Patches, two blocks of attention and gated MLP, and their mean."""

    def __init__(self, shared: int = 1, norm: type = nn.RMSNorm) -> None:
        super().__init__()
        width = 12
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norms = nn.ModuleList(norm(width) for _ in range(4))
        self.attentions = nn.ModuleList(Attention(width, 4 // shared, shared, 3) for _ in range(2))
        self.mlps = nn.ModuleList(Gated(width, 16) for _ in range(2))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for number, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * number](x))
            x = x + mlp(self.norms[2 * number + 1](x))
        return self.head(self.last(x).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "VGG with flatten": (VGG, "VGG with flatten"),
    "DenseNet": (DenseNet, "DenseNet"),
    "MobileNet": (MobileNet, "MobileNet"),
    "ResNeXt": (ResNeXt, "ResNeXt"),
    "U-Net": (UNet, "U-Net"),
    "ShuffleNet": (ShuffleNet, "ShuffleNet"),
    "squeeze and excitation": (Excited, "squeeze and excitation"),
    "fused qkv, SwiGLU, LayerNorm": (lambda: Transformer(norm=nn.LayerNorm), ""),
    "fused qkv, SwiGLU, RMSNorm": (Transformer, ""),
    "grouped queries, SwiGLU": (lambda: Transformer(2), "grouped queries, SwiGLU"),
}
"""By their names: how they are made, and what the same network is called among the twelve; "" where it is not there."""
