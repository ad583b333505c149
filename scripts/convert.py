"""Reads a network that another library has trained, says what it is, and writes it in another format.

    python scripts/convert.py --weights resnet50.pth
    python scripts/convert.py --weights resnet50.pth --architecture torchvision/resnet50 --out resnet50.safetensors

Nothing in the file is run, and PyTorch is not needed.  What is written is read again and compared, bit for bit.
"""

import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console

import jaxprune as jp
from jaxprune import check, records, tensor_files
from jaxprune.models import ARCHITECTURES, Pretrained


@dataclass(frozen=True)
class Conversion:
    """What is read, and what is written."""

    weights: Path
    """A file in safetensors, npz or PyTorch's formats."""
    architecture: str = ""
    """What the file holds, such as torchvision/resnet50.  Empty: it is only said what it looks like."""
    image: int | None = None
    """Height and width of the images, where not those of the source: positions are resampled by its own method."""
    out: Path | None = None
    """Where it is written, under its source's names: .safetensors, .npz, .pth or .pt.  Without a suffix it is a folder
    of jaxprune's own format, with a PyTorch module that reads it."""


def main(conversion: Conversion, console: Console | None = None) -> None:
    """Reads, reports and writes."""
    # Names of tensors hold brackets and colons, which rich would take for styles and signs.
    say = partial((console or Console()).print, emoji=False, markup=False, highlight=False, soft_wrap=True)
    if not conversion.architecture and conversion.out is not None:
        raise ValueError(
            "architecture: expected whose names the file has, to write it under these. Pass --architecture."
        )
    if not conversion.architecture:
        file = tensor_files.read(conversion.weights)
        say(f"{conversion.weights}: {file.format}, {len(file.tensors)} tensors, SHA-256 {file.fingerprint}")
        fitting = jp.models.looks_like(conversion.weights)
        say(f"It looks like {' or '.join(fitting)}." if fitting else "It fits no known architecture.")
        return
    if conversion.out is not None:
        check.choice("out: suffix", conversion.out.suffix, ("", ".npz", ".pt", ".pth", ".safetensors"))
        check.writable("out", conversion.out.parent)
    found = jp.models.read(conversion.weights, conversion.architecture, image=conversion.image)
    report(found, conversion.architecture, say)
    if conversion.out is not None:
        write(found, conversion)
        say(f"Written to {conversion.out}, read again, and equal bit for bit.")


def report(found: Pretrained, architecture: str, say: partial[None]) -> None:
    """Says what was read: the shape, the preprocessing, the hash of the weights, and what was left out."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((found.network.params, found.network.state))]
    say(f"{architecture}: {jp.tree.size(found.network.params):,} parameters; weights {records.fingerprint(*leaves)}")
    say(f"preprocess: {json.dumps(asdict(found.preprocess))}")
    say(f"left out: {len(found.dropped)} tensors")
    for name, why in found.dropped.items():
        say(f"  {name}: {why}")


def write(found: Pretrained, conversion: Conversion) -> None:
    """Writes a network, reads it again, and compares."""
    out = conversion.out
    assert out is not None
    if out.suffix:
        jp.models.export(out, found.network, conversion.architecture)
        again = jp.models.read(out, conversion.architecture).network
    else:
        side = found.preprocess.crop or ARCHITECTURES[conversion.architecture].image
        params, state, shape = found.network.params, found.network.state, (side, side, 3)
        jp.structured.export_pytorch(out, found.module, params, state, shape, found.preprocess)
        _, again = jp.structured.load(out, jp.models.specification)
    for name, old, new in zip(
        jp.tree.names(found.network), jax.tree.leaves(found.network), jax.tree.leaves(again), strict=True
    ):
        if not np.array_equal(np.asarray(old), np.asarray(new)):
            raise ValueError(f"out: {name} is not what it was when {str(out)!r} is read again. Is the disk in order?")


def command() -> None:
    """Reads the command line; a bad value ends in one line, without a traceback."""
    conversion = tyro.cli(Conversion, description=__doc__)
    try:
        main(conversion)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    command()
