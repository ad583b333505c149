"""Batches of arrays and of streams, put together by any number of hosts.  What batches are: see test_data.py."""

from typing import Any

import numpy as np
import pytest

import jaxprune as jp

SIZE = 12  # divided by 1, 2, 3 and 4 hosts
HOSTS = [1, 2, 3, 4]


class Files(jp.data.Source):
    """Bytes like those of decoded files; every fetch is noted, and one file may be broken."""

    name, classes = "files", ("a", "b")

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.labels = (np.arange(count) % 2).astype(np.int32)
        self.fetched: list[int] = []
        self.broken = broken
        self.pixels = np.random.default_rng(0).integers(256, size=(count, 2, 2, 3), dtype=np.uint8)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 2, 2, 3

    def images(self, indices: np.ndarray) -> np.ndarray:
        if self.broken in indices:
            raise ValueError(f"a/{self.broken}.jpg: cannot be read as an image (truncated). Is it complete?")
        self.fetched.extend(indices.tolist())
        return self.pixels[indices]

    def fingerprint(self) -> str:
        return "files:00"


def data_of(source: Files, kind: str) -> dict[str, Any]:
    data = jp.data.stream(source, np.arange(len(source)), workers=2)
    source.fetched.clear()  # the first image, which says what the others are
    return data if kind == "stream" else {**data, "image": source.pixels}


def same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert value.dtype == right[key].dtype
        np.testing.assert_array_equal(value, right[key])


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@pytest.mark.parametrize("count", [2, 11, 12, 29])
def test_batches_of_a_stream_are_those_of_the_array_in_bytes(count):
    arrays, streams = (jp.data.Batches(data_of(Files(count), kind), SIZE) for kind in ("array", "stream"))
    assert len(arrays) == len(streams)
    for _ in range(2):
        for left, right in zip(arrays, streams, strict=True):
            same(left, right)
            assert right["image"].dtype == np.uint8
    same(streams[-1], arrays[-1])
    data = [data_of(Files(count), kind) for kind in ("array", "stream")]
    for step in (0, 1, 7):
        same(*(jp.data.training_batch(each, SIZE, 3, step) for each in data))


@pytest.mark.parametrize("kind", ["array", "stream"])
@pytest.mark.parametrize("count", [2, 29, 48])
@pytest.mark.parametrize("hosts", HOSTS)
def test_batches_of_any_number_of_hosts_hold_every_example_once(hosts, count, kind):
    source = Files(count)
    data = data_of(source, kind)
    parts = [list(jp.data.Batches(data, SIZE, host=(index, hosts))) for index in range(hosts)]
    whole = list(jp.data.Batches(data_of(Files(count), "array"), SIZE))
    assert {len(part) for part in parts} == {len(whole)}
    assert {len(batch["label"]) for part in parts for batch in part} == {SIZE // hosts}
    for expected, *pieces in zip(whole, *parts, strict=True):
        same(joined(pieces), expected)
    assert sum(float(batch["weight"].sum()) for part in parts for batch in part) == count
    if kind == "stream":  # and none is decoded twice, or for padding
        assert sorted(source.fetched) == list(range(count))


@pytest.mark.parametrize("kind", ["array", "stream"])
@pytest.mark.parametrize("hosts", HOSTS)
def test_training_batch_of_any_number_of_hosts_is_the_same_global_batch(hosts, kind):
    source, reference = Files(29), data_of(Files(29), "array")
    data = data_of(source, kind)
    for step in range(6):  # into the third epoch
        pieces = [jp.data.training_batch(data, SIZE, 5, step, host=(index, hosts)) for index in range(hosts)]
        assert {len(piece["label"]) for piece in pieces} == {SIZE // hosts}
        same(joined(pieces), jp.data.training_batch(reference, SIZE, 5, step))
    if kind == "stream":
        assert np.bincount(source.fetched)[:29].sum() == 6 * SIZE
        assert set(np.bincount(source.fetched, minlength=29)) == {2, 3}


@pytest.mark.parametrize("hosts", HOSTS)
def test_batches_of_a_host_decode_its_own_part_only(hosts):
    for host in range(hosts):
        source = Files(24)
        list(jp.data.Batches(data_of(source, "stream"), SIZE, host=(host, hosts)))
        each = SIZE // hosts
        mine = [start + host * each + place for start in (0, SIZE) for place in range(each)]
        assert sorted(source.fetched) == mine
        jp.data.training_batch(data_of(source, "stream"), SIZE, 0, 0, host=(host, hosts))
        assert len(source.fetched) == each


def bytes_in(params, state, images):
    del state
    return images.reshape(len(images), -1) / np.float32(255) @ params["w"]


def linear(count: int) -> jp.Network:
    return jp.Network(bytes_in, {"w": np.random.default_rng(1).normal(size=(12, count)).astype(np.float32)})


@pytest.mark.parametrize("hosts", HOSTS)
def test_accuracy_adds_up_over_hosts(hosts):
    data = data_of(Files(29), "stream")
    hits = [
        float((np.argmax(linear(2)(batch["image"]), -1) == batch["label"]) @ batch["weight"])
        for index in range(hosts)
        for batch in jp.data.Batches(data, SIZE, host=(index, hosts))
    ]
    evaluate = jp.evaluate.transfer.accuracy(jp.data.Batches(data, SIZE))
    assert sum(hits) / 29 == pytest.approx(evaluate(linear(2))["accuracy"], rel=1e-6)


def test_snip_of_a_stream_is_that_of_the_array_bit_for_bit():
    score = jp.scores.snip(jp.losses.cross_entropy)
    scores = [score(linear(2), jp.data.Batches(data_of(Files(29), kind), SIZE))["w"] for kind in ("array", "stream")]
    assert np.any(scores[0])
    np.testing.assert_array_equal(*scores)


def test_batches_stop_at_a_corrupt_image_and_name_it(unchecked):
    # Checked annotations would inspect some batch themselves.
    data = data_of(Files(29, broken=17), "stream")
    evaluate = jp.evaluate.transfer.accuracy(jp.data.Batches(data, 4))
    with pytest.raises(ValueError, match=r"^a/17\.jpg: cannot be read as an image"):
        evaluate(linear(2))
    batches = iter(jp.data.Batches(data, 4))
    assert [next(batches)["weight"].sum() for _ in range(4)] == [4.0] * 4
    with pytest.raises(ValueError, match=r"^a/17\.jpg"):
        next(batches)
    with pytest.raises(ValueError, match=r"^a/17\.jpg"):
        jp.data.training_batch(data, 29, 0, 0)
    assert jp.data.Batches(data, 4)[3]["weight"].tolist() == [1.0] * 4
