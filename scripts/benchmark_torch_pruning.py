"""Torch-Pruning on the networks that are found without a declaration here: groups, time, and outputs against zeros.

Every group that its pruner offers at half of the channels is removed, and the outputs are compared with those of the
network before, in which the kernels that read these channels have zeros there.  What its documentation asks of a user
is given to it: the last layer is left out, and of attention the number of heads.
"""

import copy
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmark_rows import Row

import jaxprune as jp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

# As of the proof of ours: half of the digits of float64.
CLOSE = 1.5e-8


def side_by_side(rounds: int) -> Iterator[Row]:
    """Finds and halves every network, in PyTorch and here."""
    try:
        import torch
        import torch_pruning
        from torch_networks import NETWORKS
    except ImportError as error:
        yield Row("Torch-Pruning", missing=f"{error}; pip install '.[benchmark]'")
        return
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    for name, (make, ours) in NETWORKS.items():
        torch.manual_seed(0)
        model = _random(make().double().eval())
        seconds, found = [], []
        for _ in range(max(1, rounds // 3)):
            twin = copy.deepcopy(model)
            seconds.append(-time.process_time())
            found = list(_pruner(torch_pruning, twin).DG.get_all_groups([twin.head]))
            seconds[-1] += time.process_time()
        yield Row(f"{name}: Torch-Pruning", tuple(seconds), note=f"{len(found)} groups; {_halved(model)}")
        if ours:
            yield _ours(ours, rounds)


def _ours(name: str, rounds: int) -> Row:
    from tests.structured.discovery import twelve

    net, images, seconds = twelve.network(name), twelve.images(), []
    for _ in range(max(1, rounds // 3)):
        seconds.append(-time.process_time())
        jp.structured.discover(net, images)
        seconds[-1] += time.process_time()
    found = jp.structured.discover(net, images, prove=True)
    left = {group.name: np.arange(group.size) % 2 == 0 for group in found}
    want, got = (one(net, found, left)(images) for one in (jp.structured.gated, jp.structured.compact))
    apart = float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())
    note = f"{len(found)} groups, {len(found.proven)} proven; halved, {apart:.1g} from zeros"
    return Row(f"{name}: here", tuple(seconds), note=f"{note}; load {os.getloadavg()[0]:.1f}")


def _random(model: Any) -> Any:
    """Weights and statistics that hide nothing: none is zero or one."""
    import torch

    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.ndim < 2:
                tensor.copy_(0.5 + torch.rand_like(tensor))
    return model


def _images() -> Any:
    import torch

    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _pruner(library: Any, model: Any) -> Any:
    """What its documentation says: what to leave out, and the heads of kernels that hold queries, keys and values."""
    heads = {one.qkv: one.heads * one.shared for one in getattr(model, "attentions", ())}
    more = {"num_heads": heads, "prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importance = library.importance.MagnitudeImportance(p=2)
        return library.pruner.BasePruner(
            model, _images(), importance, pruning_ratio=0.5, ignored_layers=[model.head], **(more if heads else {})
        )


def _halved(model: Any) -> str:
    """Removes one group after another, and says what became of each."""
    import torch
    import torch_pruning

    model, images = copy.deepcopy(model), _images()
    told = {"equal to zeros": 0, "recomputed statistics": 0, "different": 0, "raise": 0}
    pruner = _pruner(torch_pruning, model)
    heads = {one: one.heads for one in getattr(model, "attentions", ())}
    with torch.no_grad():
        try:
            groups = pruner.step(interactive=True)
            for group in groups:
                before = copy.deepcopy(model)
                statistics = _zeroed(dict(zip(model.modules(), before.modules(), strict=True)), group)
                group.prune()
                for attention, count in heads.items():  # what the documentation asks of a user
                    attention.heads = pruner.num_heads.get(attention.qkv, count) // attention.shared
                try:
                    apart = float((model(images) - before(images)).abs().max() / before(images).abs().max())
                except RuntimeError:
                    told["raise"] += 1
                    continue
                told["recomputed statistics" if statistics else "equal to zeros" if apart < CLOSE else "different"] += 1
        except Exception as error:  # whatever another library raises
            return f"{_listed(told)}; then {type(error).__name__}: {str(error)[:80]}"
        try:
            model(images)
        except RuntimeError as error:
            return f"{_listed(told)}; in the end {str(error)[:80]}"
    return _listed(told)


def _listed(told: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in told.items() if count) or "none pruned"


def _zeroed(twins: dict[Any, Any], group: Any) -> bool:
    """Puts zeros where the group is read and made, in a copy; says whether a statistic is over it."""
    from torch import nn

    statistics = False
    for dependency, indices in group:
        layer = dependency.target.module
        twin, reads = twins.get(layer), "in_channels" in dependency.handler.__name__
        statistics |= isinstance(layer, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm)
        if getattr(twin, "weight", None) is None:
            continue
        axis = int(reads != isinstance(layer, nn.ConvTranspose2d)) if twin.weight.ndim > 1 else 0
        if getattr(layer, "groups", 1) == 1 or not reads:  # else what makes them is zero, and so is what is read
            twin.weight.index_fill_(axis, _tensor(indices), 0)
        if not reads and getattr(twin, "bias", None) is not None:
            twin.bias.index_fill_(0, _tensor(indices), 0)
    return statistics


def _tensor(indices: Any) -> Any:
    import torch

    return torch.tensor(list(indices))
