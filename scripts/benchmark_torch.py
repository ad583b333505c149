"""The other side: the same networks, weights and quantities in PyTorch, BackPACK and curvlinops."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from backpack import backpack, extend
from backpack.extensions import DiagGGNExact
from benchmark_networks import Subject, flax_layout, torch_layout, torch_name, torch_weights
from curvlinops import GGNLinearOperator, HessianLinearOperator
from curvlinops.ggn import make_batch_ggn_matrix_product
from curvlinops.hessian import make_batch_hessian_matrix_product
from torch import nn
from torch.func import functional_call, grad, jvp

import jaxprune as jp

# Outputs must agree to this before anything is timed.
AGREES = 1e-4


class Side:
    """A subject in PyTorch: the converted network, the batch, and the quantities of its mean loss.

    Results are lists of tensors, in the order of the parameters that were asked for; ``named`` brings them into our
    layout.

    Args:
      subject: what to convert.
      module: the network in PyTorch, its submodules named as ours.
      threads: on CPU.

    Raises:
      ValueError: a weight fits nothing on the other side, or the outputs differ.
    """

    def __init__(self, subject: Subject, module: nn.Module, threads: int = 2) -> None:
        torch.set_num_threads(threads)
        # Ours is at full float32 precision, so this must be too.
        torch.backends.cudnn.allow_tf32 = False
        self.device = "cuda" if jax.default_backend() != "cpu" and torch.cuda.is_available() else "cpu"
        self.names = jp.tree.names(subject.network.params)
        self.kernels = list(subject.in_scope(subject.network.params))
        weights = {name: torch.from_numpy(value) for name, value in torch_weights(subject.network).items()}
        counters = {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
        module.load_state_dict(weights | counters, strict=True)
        self.module = module.eval().to(self.device)
        self.loss = nn.CrossEntropyLoss()
        self.images = self.tensor(np.transpose(subject.batch["image"], (0, 3, 1, 2)))
        self.labels = self.tensor(np.asarray(subject.batch["label"], np.int64))
        self.vector = {
            name: self.tensor(torch_layout(name, leaf))
            for name, leaf in zip(self.names, jax.tree.leaves(subject.vector), strict=True)
        }
        with torch.no_grad():
            theirs = self.module(self.images).cpu().numpy()
        ours = np.asarray(jax.jit(lambda network, images: network(images))(subject.network, subject.batch["image"]))
        error = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
        if not error < AGREES:
            raise ValueError(f"expected equal outputs of both networks, but they differ by {error:.1e}.")

    def tensor(self, array: Any) -> torch.Tensor:
        """Copies an array to the device."""
        return torch.from_numpy(np.array(array)).to(self.device)

    def parameters(self, names: Sequence[str]) -> list[nn.Parameter]:
        """Lists the parameters of these names (ours)."""
        found = dict(self.module.named_parameters())
        return [found[torch_name(name)] for name in names]

    def named(self, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        """Brings results into our names and layout."""
        pairs = zip(names, tensors, strict=True)
        return {name: flax_layout(name, tensor.detach().cpu().numpy()) for name, tensor in pairs}

    def gradient(self) -> list[torch.Tensor]:
        """Computes one gradient of all parameters."""
        loss = self.loss(self.module(self.images), self.labels)
        return self._done(torch.autograd.grad(loss, self.parameters(self.names)))

    def double_backward(self) -> list[torch.Tensor]:
        """Computes H v by differentiating the gradient backwards."""
        parameters = self.parameters(self.names)
        loss = self.loss(self.module(self.images), self.labels)
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        return self._done(torch.autograd.grad(first, parameters, [self.vector[name] for name in self.names]))

    def forward_over_reverse(self) -> list[torch.Tensor]:
        """Computes H v by differentiating the gradient forwards."""
        return self._done(self._forward_over_reverse(self.names))

    def layers_shared_graph(self) -> list[torch.Tensor]:
        """Computes H_l v_l for every kernel l: one gradient whose graph all layers share, then one backward each."""
        kernels = self.parameters(self.kernels)
        loss = self.loss(self.module(self.images), self.labels)
        first = torch.autograd.grad(loss, kernels, create_graph=True)
        blocks = [
            torch.autograd.grad(slope, kernel, self.vector[name], retain_graph=True)[0]
            for name, kernel, slope in zip(self.kernels, kernels, first, strict=True)
        ]
        return self._done(blocks)

    def layers_one_by_one(self) -> list[torch.Tensor]:
        """Computes H_l v_l for every kernel l, each by a forward derivative of its own gradient."""
        return self._done([self._forward_over_reverse([name])[0] for name in self.kernels])

    def layers_curvlinops(self) -> Callable[[], list[torch.Tensor]]:
        """Makes curvlinops' block-diagonal Hessian times v, a block for each kernel."""
        kernels = self.parameters(self.kernels)
        return self._operator(HessianLinearOperator, self.kernels, block_sizes=[1] * len(kernels))

    def hvp_curvlinops(self) -> Callable[[], list[torch.Tensor]]:
        """Makes curvlinops' H v."""
        return self._operator(HessianLinearOperator, self.names)

    def ggnvp_curvlinops(self) -> Callable[[], list[torch.Tensor]]:
        """Makes curvlinops' G v."""
        return self._operator(GGNLinearOperator, self.names)

    def compiled_curvlinops(self, matrix: str) -> Callable[[], list[torch.Tensor]]:
        """Makes curvlinops' product ("hessian" or "ggn") of all parameters, through ``torch.compile``."""
        make = {"hessian": make_batch_hessian_matrix_product, "ggn": make_batch_ggn_matrix_product}[matrix]
        product = torch.compile(make(self.module, self.loss, tuple(self.parameters(self.names))))
        vector = [self.vector[name].unsqueeze(-1) for name in self.names]
        return lambda: self._done([part.squeeze(-1) for part in product(self.images, self.labels, *vector)])

    def diagonal_backpack(self) -> Callable[[], list[torch.Tensor]]:
        """Makes BackPACK's exact diagonal of the Gauss-Newton matrix, for the kernels alone."""
        module = copy.deepcopy(self.module)
        for parameter in module.parameters():
            parameter.requires_grad_(parameter.ndim > 1)
        module = extend(module, use_converter=True).eval()
        loss = extend(nn.CrossEntropyLoss())
        # Images that need a gradient: without one, PyTorch warns of BackPACK's hook on the first layer.
        images = self.images.clone().requires_grad_()
        found = dict(module.named_parameters())

        def diagonal() -> list[torch.Tensor]:
            module.zero_grad()
            with backpack(DiagGGNExact()):
                loss(module(images), self.labels).backward()
            return self._done([found[torch_name(name)].diag_ggn_exact for name in self.kernels])

        return diagonal

    def _forward_over_reverse(self, names: Sequence[str]) -> Sequence[torch.Tensor]:
        chosen = [torch_name(name) for name in names]
        found = {name: value.detach() for name, value in self.module.named_parameters()}

        def mean_loss(values: tuple[torch.Tensor, ...]) -> torch.Tensor:
            outputs = functional_call(self.module, found | dict(zip(chosen, values, strict=True)), self.images)
            return self.loss(outputs, self.labels)

        at = tuple(found[name] for name in chosen)
        return jvp(grad(mean_loss), (at,), (tuple(self.vector[name] for name in names),))[1]

    def _operator(self, kind: Any, names: Sequence[str], **options: Any) -> Callable[[], list[torch.Tensor]]:
        data = [(self.images, self.labels)]
        parameters = self.parameters(names)
        operator = kind(self.module, self.loss, parameters, data, check_deterministic=False, **options)
        vector = [self.vector[name] for name in names]
        return lambda: self._done(operator @ vector)

    def _done(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return list(tensors)


class ResNet(nn.Module):
    """A ResNet whose submodules have the names of ``jaxprune.models.resnet``."""

    def __init__(
        self, blocks: Sequence[int], classes: int, width: int, *, bottleneck: bool = False, large_images: bool = False
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv", _convolution(3, width, 7 if large_images else 3, 2 if large_images else 1))
        self.stem.add_module("norm", nn.BatchNorm2d(width))
        self.stem.add_module("relu", nn.ReLU())
        if large_images:
            self.stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
        self.order, inputs = [], width
        for stage, count in enumerate(blocks):
            for index in range(count):
                block = _Block(inputs, width * 2**stage, 2 if stage > 0 and index == 0 else 1, bottleneck)
                self.order.append(f"stage{stage + 1}_block{index}")
                self.add_module(self.order[-1], block)
                inputs = block.outputs
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Any) -> Any:
        """Maps [b, c, h, w] to [b, classes]."""
        x = self.stem(x)
        for name in self.order:
            x = getattr(self, name)(x)
        return self.head(self.flatten(self.pool(x)))


class _Block(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.outputs = 4 * filters if bottleneck else filters
        # Size, stride and filters of each convolution.
        plan = [(1, 1, filters), (3, stride, filters), (1, 1, self.outputs)]
        plan = plan if bottleneck else [(3, stride, filters), (3, 1, filters)]
        self.count, before = len(plan), inputs
        for number, (size, step, after) in enumerate(plan, start=1):
            self.add_module(f"conv{number}", _convolution(before, after, size, step))
            self.add_module(f"norm{number}", nn.BatchNorm2d(after))
            self.add_module(f"relu{number}", nn.ReLU())
            before = after
        self.projects = stride != 1 or inputs != self.outputs
        if self.projects:
            self.projection = _convolution(inputs, self.outputs, 1, stride)
            self.projection_norm = nn.BatchNorm2d(self.outputs)

    def forward(self, x: Any) -> Any:
        y = x
        for number in range(1, self.count):
            y = self._step(y, number)
            y = getattr(self, f"relu{number}")(y)
        y = self._step(y, self.count)
        shortcut = self.projection_norm(self.projection(x)) if self.projects else x
        return getattr(self, f"relu{self.count}")(shortcut + y)

    def _step(self, x: Any, number: int) -> Any:
        return getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(x))


class ViT(nn.Module):
    """A vision transformer whose submodules have the names of ``jaxprune.models.vit``."""

    def __init__(self, width: int, heads: int, depth: int, patch: int, image: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.position = nn.Parameter(torch.zeros((image // patch) ** 2 + 1, width))
        self.order = [f"block{index}" for index in range(depth)]
        for name in self.order:
            self.add_module(name, _Transformer(width, heads))
        self.norm = _LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Any) -> Any:
        """Maps [b, c, image, image] to [b, classes]."""
        patches = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), 1, -1), patches], 1) + self.position
        for name in self.order:
            x = getattr(self, name)(x)
        return self.head(self.norm(x[:, 0]))


class _LayerNorm(nn.Module):
    # Written out: curvlinops' Hessian is wrong by a quarter through nn.LayerNorm (torch 2.15, vmap of jvp of jacrev).
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Any) -> Any:
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight + self.bias


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = _LayerNorm(width), _LayerNorm(width)
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "output")})
        self.mlp = nn.ModuleDict({"hidden": nn.Linear(width, 4 * width), "output": nn.Linear(4 * width, width)})

    def forward(self, x: Any) -> Any:
        y = self.norm1(x)
        query, key, value = (
            self.attention[name](y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        # Written out: the fused operation has no second derivative.
        weights = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
        x = x + self.attention["output"]((weights @ value).transpose(1, 2).flatten(2))
        return x + self.mlp["output"](nn.functional.gelu(self.mlp["hidden"](self.norm2(x))))


def _convolution(inputs: int, filters: int, size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, filters, size, stride, size // 2, bias=False)
