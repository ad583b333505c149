"""Zip archives, safetensors and everything else that a file can be: what is damaged or not accepted is named."""

import io
import json
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from jaxprune.tensor_files import read, safetensors_files, write
from jaxprune.tensor_files.refusal import Refusal
from tests.tensor_files import craft

NET = craft.dictionary(w=craft.tensor())


def opened(folder, data):
    (folder / "net").write_bytes(data)
    return read(folder / "net")


def directory(data, name):
    """Where the entry of a member begins in the directory."""
    return data.rindex(b"PK\1\2", 0, data.rindex(name))


def changed(data, place, form, value):
    return data[:place] + struct.pack(form, value) + data[place + struct.calcsize(form) :]


def named(data, name, field, form, value):
    """Changes one field of a member's entry in the directory."""
    return changed(data, directory(data, name) + field, form, value)


FLAGS, METHOD, CHECKSUM, PACKED, SIZE, PLACE = 8, 10, 16, 20, 24, 42
DATA = b"net/data/0"


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: data[:-1], "the zip archive is missing"),
        (lambda data: data[:-100], "was cut off"),
        (lambda data: data + b"more", "something follows the end"),
        (lambda data: data[:4], "was cut off"),
        (lambda data: named(data, DATA, FLAGS, "<H", 1), r"'net/data/0' is encrypted"),
        (lambda data: named(data, DATA, METHOD, "<H", 99), "'net/data/0' is compressed, which PyTorch never does"),
        (
            lambda data: named(data, DATA, CHECKSUM, "<I", 1),
            r"checksum of its member 'net/data/0' is \w{8}, and not 00000001",
        ),
        (lambda data: named(data, DATA, SIZE, "<I", 2**32 - 2), "'net/data/0' has two sizes"),
        (lambda data: named(data, DATA, PACKED, "<I", 2**32 - 1), "'net/data/0' overlaps"),
        (lambda data: named(data, DATA, PLACE, "<I", 2**32 - 1), "'net/data/0' overlaps"),
        (lambda data: named(data, DATA, PLACE, "<I", 0), "is not where the directory says|overlaps"),
        (lambda data: changed(data, len(data) - 12, "<H", 60_000), "the end of the zip archive is damaged"),
        (lambda data: changed(data, len(data) - 10, "<I", 2**31), "its directory is damaged"),
        (lambda data: data.replace(b"PK\1\2", b"PK\1\3"), "its directory is damaged"),
        (lambda data: data.replace(b"PK\3\4", b"PK\3\5"), "first bytes|is not where the directory says"),
        (lambda data: data.replace(bytes(range(24)), bytes(24)), "the checksum of its member 'net/data/0'"),
        (lambda data: data.replace(craft.text("w"), craft.text("v")), "the checksum of its member 'net/data.pkl'"),
    ],
)
def test_read_names_a_damaged_archive(damage, match, tmp_path):
    data = craft.pth(NET)
    assert opened(tmp_path, data).tensors["w"].shape == (2, 3)
    with pytest.raises(ValueError, match=rf"net: expected an intact file of tensors, but .*({match}).*\. \w"):
        opened(tmp_path, damage(data))


def test_read_takes_damage_in_what_is_not_needed(tmp_path):
    data = named(craft.pth(NET), b"net/version", CHECKSUM, "<I", 1)
    assert opened(tmp_path, data).tensors["w"].shape == (2, 3)


def test_read_refuses_two_members_of_one_name(tmp_path):
    data = craft.pth(NET, **{"net/data/1": b"other"})
    with pytest.raises(ValueError, match="it holds 'net/data/0' twice"):
        opened(tmp_path, data.replace(b"net/data/1", b"net/data/0"))


def test_read_refuses_members_that_overlap(tmp_path):
    # A storage that reaches over the one behind it.
    data = craft.pth(NET, **{"net/data/1": bytes(24)})
    first, second = (data.index(name) - 30 for name in (b"net/data/0", b"net/data/1"))
    longer = second - first + 24
    with pytest.raises(ValueError, match="'net/data/0' overlaps another one"):
        opened(tmp_path, named(named(data, DATA, PACKED, "<I", longer), DATA, SIZE, "<I", longer))


@pytest.mark.parametrize("places", [(10_000, 20_000), (2**32 - 2, 2**32 - 1)])
def test_members_behind_the_file_are_refused(places, tmp_path):
    data = craft.pth(NET, **{"net/data/1": bytes(24)})
    for name, place in zip((DATA, b"net/data/1"), places, strict=True):
        data = named(data, name, PLACE, "<I", place)
    with pytest.raises(ValueError, match="'net/data/0' overlaps another one or lies outside"):
        opened(tmp_path, data)


@pytest.mark.parametrize("shift", [100, 100_000])
def test_read_refuses_a_member_before_the_file(shift, tmp_path):
    # The directory claims to begin later than it does, so that zipfile takes something from every place.
    data = craft.pth(NET)
    start = struct.unpack_from("<I", data, len(data) - 6)[0]
    with pytest.raises(ValueError, match=r"'net/data\.pkl' overlaps another one or lies outside"):
        opened(tmp_path, changed(data, len(data) - 6, "<I", start + shift))


def test_read_refuses_a_long_directory(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for number in range(100):
            member = zipfile.ZipInfo(f"{number:02}.npy")
            member.comment = bytes(60_000)
            target.writestr(member, b"")
    with pytest.raises(ValueError, match=r"its directory is 6005200 bytes long\. Save"):
        opened(tmp_path, stream.getvalue())


def test_read_refuses_compressed_members_where_they_are_needed(tmp_path):
    members = {"net/data.pkl": craft.program(NET), "net/data/0": bytes(range(24)), "net/version": b"3\n"}
    with pytest.raises(ValueError, match=r"'net/data\.pkl' is compressed, which PyTorch never does\. Unpack"):
        opened(tmp_path, craft.archive(members, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("order", [b"big", b"middle"])
def test_read_refuses_big_endian_files(order, tmp_path):
    with pytest.raises(ValueError, match=r"big-endian.* Load and save it with PyTorch on a little-endian machine"):
        opened(tmp_path, craft.pth(NET, **{"net/byteorder": order}))


def test_read_legacy_refuses_another_order_of_bytes(tmp_path):
    data = craft.legacy(NET)
    assert opened(tmp_path, data).format == "pytorch-legacy"
    with pytest.raises(ValueError, match="big-endian"):
        opened(tmp_path, data.replace(craft.text("little_endian") + b"\x88", craft.text("little_endian") + b"\x89"))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (craft.legacy(NET)[:-1], "storage '0' ends early"),
        (craft.legacy(NET)[:-28], "storage '0' ends early"),
        (craft.legacy(NET) + b"x", "1 bytes follow its last storage"),
        (craft.legacy(NET, count=5), "4 bytes follow"),
        (craft.legacy(NET, count=-1), "ends early"),
        (craft.legacy(NET, bytes(20), count=5), "has 20 bytes, and not 24"),
        (craft.legacy(NET, keys=("1",)), "nothing says what kind of numbers its storage '1' has"),
        (craft.legacy(NET, b"", (), 0)[:-8], "its storage '0' is missing"),
        (craft.legacy(NET).replace(b"M\xe9\x03", b"M\xe8\x03"), "does not begin as"),
    ],
)
def test_read_legacy_names_a_damaged_file(data, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        opened(tmp_path, data)


def safetensors(header, data=bytes(24)):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype="F32", shape=(2, 3), place=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


# Found by the package, whose words are its own.
DAMAGED = "its header is damaged, or what follows is not what it says"


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\xff" * 7 + b"\x7f" + b"{}", "claims 9223372036854775807 bytes, where 2 follow"),
        (b"\x00" * 8 + b"{}", DAMAGED),
        (
            safetensors(b'{"w": ' + json.dumps(entry()).encode() + b', "w": ' + json.dumps(entry()).encode() + b"}"),
            "twice",
        ),
        (safetensors({"w": entry()}, bytes(23)), DAMAGED),
        (safetensors({"w": entry()}, bytes(25)), DAMAGED),
        (safetensors({"w": entry(), "v": entry()}), DAMAGED),
        (safetensors({"w": entry(place=(1, 25))}, bytes(25)), DAMAGED),
        (safetensors({"w": entry(place=(24, 0))}), DAMAGED),
        (safetensors({"w": entry(place=(0, 2**63))}), DAMAGED),
        (safetensors({"w": entry(shape=(2**62, 2**62))}), DAMAGED),
        (safetensors({"w": entry(shape=(-2, -3))}), DAMAGED),
        (safetensors({"w": entry(shape=(6.0,))}), DAMAGED),
        (safetensors({"w": entry(shape=(True, 6))}), DAMAGED),
        (safetensors({"w": entry(shape=[1] * 65 + [6])}), "the shape of its tensor 'w' is none"),
        (safetensors({"w": entry("F31")}), DAMAGED),
        (safetensors({"w": entry(["F32"])}), DAMAGED),
        (safetensors({"w": {**entry(), "more": 1}}), "something else"),
        (safetensors({"w": ["F32", [2, 3], [0, 24]]}), "something else"),
        (safetensors({"w": [1]}), DAMAGED),
        (safetensors({"w": entry(), "__metadata__": {"a": 1}}), DAMAGED),
        (safetensors(b"{" * 100_000), DAMAGED),
        (safetensors(b'{"a":' * 100_000), DAMAGED),
        (safetensors(b'{"a":' + b"9" * 5000 + b"}"), DAMAGED),
        (safetensors(b'{"\xff": 1}'), DAMAGED),
        (safetensors(b"{" + b" " * 4_000_000 + b"}"), "header is 4000002 bytes long"),
    ],
)
def test_read_names_a_damaged_file_of_safetensors(data, match, tmp_path):
    with pytest.raises(ValueError, match=rf"net: expected an intact file of tensors, but .*{match}"):
        opened(tmp_path, data)


def test_read_of_safetensors_demands_the_file_whose_header_was_checked(tmp_path):
    # What another program writes while it is read.
    whole = safetensors({"w": entry()})
    (tmp_path / "net").write_bytes(whole)
    assert set(safetensors_files.read(whole, tmp_path / "net")[0]) == {"w"}
    with pytest.raises(Refusal, match="'w' ends behind the file"):
        safetensors_files.read(whole[:-1], tmp_path / "net")


def test_read_takes_metadata_of_safetensors_that_are_null(tmp_path):
    assert not opened(tmp_path, safetensors({"w": entry(), "__metadata__": None})).other


def test_read_takes_many_axes_without_elements(tmp_path):
    empty = entry(shape=(0, 2**30, 2**30), place=(0, 0))
    assert opened(tmp_path, safetensors({"w": empty}, b"")).format == "safetensors"


def npy(header, data=bytes(24), version=b"\1\0"):
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\1\0" else "<I", len(header)) + header + data


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"
HEADER_DAMAGED = r"but the header of its member 'w\.npy' is damaged"


@pytest.mark.parametrize(
    ("member", "match"),
    [
        (b"", "is no array"),
        (b"\x93NUMPY", "is no array"),
        (npy(HEADER, version=b"\4\0"), "is no array"),
        (npy(HEADER, bytes(23)), "not as many as it says"),
        (npy(HEADER, bytes(25)), "not as many"),
        (npy(HEADER)[:40], HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"(-2, -3)")), HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"(2, __import__('os'))")), HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"(99999999999999999999, 3)")), HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"(9999999999999999999, 3)")), "not as many"),
        (npy(HEADER.replace(b"False", b"None")), HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"(True, 6)")), HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"(1," * 65 + b")" * 65)), HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"(" + b"1," * 65 + b"6)")), HEADER_DAMAGED),
        (npy(HEADER.replace(b"(2, 3)", b"-" * 5000 + b"1")), HEADER_DAMAGED),
        (npy(HEADER + b" " * 20_000), HEADER_DAMAGED),
    ],
)
def test_read_names_a_damaged_npz(member, match, tmp_path):
    data = craft.archive({"v.npy": npy(HEADER), "w.npy": npy(HEADER)})
    assert set(opened(tmp_path, data).tensors) == {"v", "w"}
    with pytest.raises(ValueError, match=match):
        opened(tmp_path, craft.archive({"v.npy": npy(HEADER), "w.npy": member}))


def test_arrays_of_two_bytes_are_bfloat16_only_where_they_are_nothing_else(tmp_path):
    header = HEADER.replace(b"(2, 3)", b"(12,)")
    members = {
        "bfloat16.npy": npy(header.replace(b"'<f4'", b"'<V2'")),
        "named.npy": npy(header.replace(b"'<f4'", b"[('x', '<i2')]")),
        "third.npy": npy(header.replace(b"'<f4'", b"'<i2'"), version=b"\3\0"),
    }
    tensors = opened(tmp_path, craft.archive(members)).tensors
    assert (tensors["bfloat16"].dtype, tensors["third"].dtype) == (np.float32, np.int16)
    with pytest.raises(ValueError, match="no array of little-endian numbers"):
        tensors["named"]


def test_read_refuses_archives_that_unpack_to_too_much(tmp_path):
    header = HEADER.replace(b"(2, 3)", b"(30000000,)")
    data = craft.archive({"w.npy": npy(header, bytes(120_000_000))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="more memory"):
        opened(tmp_path, data)
    # A directory that does not tell how much.
    small = named(data, b"w.npy", SIZE, "<I", 100)
    with pytest.raises(ValueError, match="has not the size that the directory tells"):
        opened(tmp_path, small)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_read_refuses_other_compression(method, tmp_path):
    with pytest.raises(ValueError, match="compressed in a way other than deflate"):
        opened(tmp_path, craft.archive({"w.npy": npy(HEADER)}, method))


def test_read_checks_deflated_members_by_their_checksums(tmp_path):
    data = craft.archive({"w.npy": npy(HEADER)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"the checksum of its member 'w\.npy'"):
        opened(tmp_path, named(data, b"w.npy", CHECKSUM, "<I", 0))


def tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        target.addfile(tarfile.TarInfo("storages"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "it is empty. Copy"),
        (tar(), "an archive of tar, as PyTorch wrote before 2017. Load and save it with PyTorch"),
        (npy(HEADER), "a single array of NumPy. Save it by numpy.savez"),
        (b"\x80\x02}.", "a pickle that torch.save did not write"),
        (b"<!DOCTYPE html>", "a page of the web"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"anything else", "of no known format. Known are safetensors"),
        (craft.archive({"a/readme.txt": b"text"}), "a zip archive of something else"),
        (craft.archive({"a/model.json": b"{}"}), "TorchScript before 1.4"),
        (craft.archive({"a.npy": npy(HEADER), "b.txt": b""}), "a zip archive of something else"),
    ],
)
def test_read_names_other_files(data, match, tmp_path):
    with pytest.raises(ValueError, match=rf"net: expected an intact file of tensors, but .*{match}"):
        opened(tmp_path, data)


def test_read_names_files_that_are_not_there(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="path: expected a file, but"):
            read(path)


def test_read_takes_a_file_without_tensors(tmp_path):
    for name in ("a.npz", "a.pth", "a.safetensors"):
        write(tmp_path / name, {})
        assert not dict(read(tmp_path / name).tensors)


def test_read_without_checksums_has_a_fingerprint_of_the_numbers(tmp_path):
    write(tmp_path / "net.safetensors", {"w": np.arange(6.0)})
    data = (tmp_path / "net.safetensors").read_bytes()
    first, second = opened(tmp_path, data), opened(tmp_path, data[:-1] + b"\x00")
    assert first.fingerprint != second.fingerprint
    assert first.tensors["w"][-1] != second.tensors["w"][-1]
    legacy = craft.legacy(NET)
    assert opened(tmp_path, legacy).fingerprint != opened(tmp_path, legacy[:-1] + b"\x00").fingerprint


def test_read_knows_safetensors_whose_length_begins_like_an_archive(tmp_path):
    header = json.dumps({"w": entry()}).encode().ljust(int.from_bytes(b"PK", "little"))
    data = safetensors(header)
    assert data.startswith(b"PK")
    assert opened(tmp_path, data).format == "safetensors"
