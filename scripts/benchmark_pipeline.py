"""What stands between images on disk and a network: our pipeline beside bare decoding by as many threads."""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_rows import Row, timed
from flax import linen as nn
from PIL import Image

import jaxprune as jp
from jaxprune.data.streaming import usable_cpus

SEED, PICTURES, TURN, CLASSES, BATCH = 0, 640, 320, 4, 64
HEIGHT, WIDTH, QUALITY = 375, 500, 92
RESIZE, CROP = 256, 224


def decoding(rounds: int) -> Iterator[Row]:
    """Times both over the same files, a few batches of one and then of the other, so that a busy machine slows both."""
    workers = usable_cpus()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        size = write(Path(folder))
        source = opened(folder)
        files = [Path(folder) / file for file in source.files]
        works = []
        for start in range(0, PICTURES, TURN):
            part = np.arange(start, start + TURN)
            data = {"image": jp.data.Stream(source, part, workers), "label": source.labels[part]}
            alone = functools.partial(pool.map, bare, files[start : start + TURN])
            works.append((alone, functools.partial(iter, jp.data.Batches(data, BATCH))))
        in_turns(works)  # warms the threads and the disk's cache
        found = [in_turns(works) for _ in range(rounds)]
    ratios = tuple(there / here for there, here in found)
    rates = [PICTURES / statistics.median(seconds) for seconds in zip(*found, strict=True)]
    note = f"{rates[1]:,.0f} against {rates[0]:,.0f} images per second; JPEG of {WIDTH}x{HEIGHT}, {size / 1e3:.0f} kB"
    yield Row(
        f"decoding in {workers} threads: speed over that of bare Pillow", ratios, "times", at_least=0.85, note=note
    )


def consumed(rounds: int) -> Iterator[Row]:
    """Lets a compiled step consume the batches, and says how long it waits for them, and what both at once win."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        data = jp.data.stream(opened(folder), np.arange(PICTURES))
        batches = jp.data.prefetch(jp.data.Batches(data, BATCH), place=jax.device_put)
        step, batch = small_step(), batches[0]
        first, _ = timed(lambda: step(batch))
        drained(lambda: batches)
        alone, found, steps = [], [], []
        for _ in range(rounds):
            alone.append(drained(lambda: batches))
            steps.append(drained(lambda: (jax.block_until_ready(step(batch)) for _ in range(len(batches)))))
            found.append(_consume(batches, step))
    waited = tuple(waiting / seconds for seconds, waiting in found)
    yield Row("share of the time that a small step waits for its batch", waited, "", first=first)
    apart = [one + other for one, other in zip(alone, steps, strict=True)]
    ratios = tuple(seconds / both for (seconds, _), both in zip(found, apart, strict=True))
    rate = PICTURES / statistics.median(seconds for seconds, _ in found)
    note = f"{rate:,.0f} images per second; {statistics.median(steps) / len(batches):.3f} s for a step of {BATCH} alone"
    yield Row("decoding and steps together, over one after the other", ratios, "times", note=note)


def write(folder: Path) -> float:
    """Writes seeded images into a folder for each class; returns the mean size of the files in bytes."""
    rng, sizes = np.random.default_rng(SEED), []
    for number in range(PICTURES):
        path = folder / f"class{number % CLASSES}" / f"{number:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture(rng).save(path, quality=QUALITY)
        sizes.append(path.stat().st_size)
    return float(np.mean(sizes))


def picture(rng: np.random.Generator) -> Image.Image:
    """Paints noise of all scales, coarse ones strongest, as in photographs: amplitudes fall with the frequency."""
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for level in range(2, 9):
        coarse = rng.normal(size=(2**level * 3 // 4, 2**level, 3)) + rng.normal(size=(2**level * 3 // 4, 2**level, 1))
        pixels = Image.fromarray(np.uint8(np.clip(128 + 36 * coarse, 0, 255)))
        total += (np.float32(pixels.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) - 128) / 1.3 ** (level - 2)
    return Image.fromarray(np.uint8(np.clip(128 + total, 0, 255)))


def opened(folder: str) -> Any:
    """Opens the folder with the transform that torchvision's ResNets are evaluated with."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transform = jp.types.Preprocess(RESIZE, CROP, interpolation="bilinear", mean=mean, std=std)
    return jp.data.folder(folder, preprocess=transform)


def bare(path: Path) -> Image.Image:
    """Does what has to be done for one image, and nothing else."""
    picture = Image.open(path).convert("RGB")
    scale = RESIZE / min(picture.size)
    picture = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
    left, top = (picture.width - CROP) // 2, (picture.height - CROP) // 2
    return picture.crop((left, top, left + CROP, top + CROP))


def drained(start: Callable[[], Any]) -> float:
    """Returns the seconds until all has come."""
    began = time.perf_counter()
    for _ in start():
        pass
    return time.perf_counter() - began


def in_turns(works: list[tuple[Callable[[], Any], Callable[[], Any]]]) -> tuple[float, float]:
    """Returns the seconds of all first and of all second works, which take turns in going first."""
    seconds = [0.0, 0.0]
    for turn, pair in enumerate(works):
        for which in (turn % 2, 1 - turn % 2):
            seconds[which] += drained(pair[which])
    return seconds[0], seconds[1]


def small_step() -> Callable[[Any], Any]:
    """Makes a compiled training gradient of a small network that takes bytes."""
    module = nn.Sequential([nn.Conv(64, (16, 16), (16, 16)), nn.relu, lambda x: jnp.mean(x, (1, 2)), nn.Dense(CLASSES)])
    params = module.init(jax.random.key(SEED), jnp.zeros((1, CROP, CROP, 3)))

    def loss(params: Any, batch: Any) -> Any:
        images = (batch["image"] / jnp.float32(255) - 0.45) / 0.225
        return jp.losses.mean(jp.losses.cross_entropy, module.apply(params, images), batch)

    return functools.partial(jax.jit(jax.grad(loss)), params)


def _consume(batches: Any, step: Callable[[Any], Any]) -> tuple[float, float]:
    """Returns the seconds of all steps, and those spent waiting for batches."""
    began, waited, result = time.perf_counter(), 0.0, None
    source = iter(batches)
    while True:
        asked = time.perf_counter()
        batch = next(source, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        result = jax.block_until_ready(step(batch))
    del result
    return time.perf_counter() - began, waited
