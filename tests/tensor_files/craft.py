"""Files made by hand: pickles from opcodes, archives from members."""

import io
import struct
import zipfile


def text(value):
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def called(name, *arguments):
    """The opcodes that import a name and call it."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def numbers(*values):
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def storage(key="0", count=6, kind="torch.FloatStorage"):
    module, _, last = kind.rpartition(".")
    made = f"c{module}\n{last}\n".encode()
    return b"(" + text("storage") + made + text(key) + text("cpu") + b"J" + struct.pack("<i", count) + b"tQ"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, **of_storage):
    """The opcodes that rebuild a tensor."""
    parts = storage(**of_storage), b"J" + struct.pack("<i", offset), numbers(*shape), numbers(*strides), b"\x89N"
    return called("torch._utils._rebuild_tensor_v2", *parts)


def dictionary(**values):
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def program(opcodes):
    return b"\x80\x02" + opcodes + b"."


def archive(members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as target:
        for name, data in members.items():
            target.writestr(zipfile.ZipInfo(name), data, compression)
    return stream.getvalue()


def pth(opcodes, data=bytes(range(24)), **others):
    """A file of torch.save, whose storage 0 has 24 bytes."""
    return archive({"net/data.pkl": program(opcodes), "net/data/0": data, "net/version": b"3\n", **others})


def legacy(opcodes, data=bytes(range(24)), keys=("0",), count=6):
    """A file as PyTorch wrote it before 1.6."""
    machine = dictionary(little_endian=b"\x88")
    listed = b"](" + b"".join(map(text, keys)) + b"e"
    magic, version = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", b"M\xe9\x03"
    parts = [program(part) for part in (magic, version, machine, opcodes, listed)]
    return b"".join(parts) + struct.pack("<q", count) + data
