"""Pickles are data: what Python's own reader makes of harmless ones, and nothing of the others."""

import contextlib
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.tensor_files import Placeholder, opcodes, read
from jaxprune.tensor_files.refusal import Allowance, Refusal
from jaxprune.tensor_files.torch_names import TorchNames
from tests.tensor_files import craft

NUMBERS = np.frombuffer(bytes(range(24)), np.float32)


def run(data, size=10_000_000):
    allowance = Allowance(size)
    return opcodes.run(data, 0, len(data), TorchNames(allowance), allowance)


def opened(folder, opcodes, **others):
    (folder / "net.pth").write_bytes(craft.pth(opcodes, **others))
    return read(folder / "net.pth")


def plain(*leaves):
    keys = st.text(max_size=5) | st.integers(-300, 300) | st.tuples(st.integers(), st.text(max_size=2))
    return st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=300), *leaves),
        lambda inner: st.one_of(
            st.lists(inner, max_size=5),
            st.lists(inner, max_size=5).map(tuple),
            st.dictionaries(keys, inner, max_size=4),
        ),
        max_leaves=12,
    )


@pytest.mark.parametrize("protocol", range(6))
def test_opcodes_give_plain_values_as_the_standard_library_does(protocol):
    large = st.integers(-(2**1000), 2**1000)
    leaves = (large, st.binary(max_size=300)) if protocol >= 3 else (large,)

    @given(plain(*leaves))
    @settings(max_examples=60)
    def is_the_same(value):
        # The same object twice goes through the memory.
        data = pickle.dumps((value, [value, value]), protocol)
        found, position = run(data + b"more")
        assert found == (value, [value, value])
        assert position == len(data)

    is_the_same()


@pytest.mark.parametrize("protocol", [4, 5])
def test_opcodes_make_sets_lists_of_their_values(protocol):
    found, _ = run(pickle.dumps([{1, 2}, frozenset("a")], protocol))
    assert [sorted(found[0]), found[1]] == [[1, 2], ("a",)]


class Parameters(list):
    """A list of a class of one's own, such as torch.nn.ParameterList was."""


def test_opcodes_number_what_is_appended_to_an_object_through_all_batches():
    # Python pickles appends in batches of a thousand.
    found, _ = run(pickle.dumps(Parameters(range(2002))))
    assert found.entries == list(enumerate(range(2002)))


def test_opcodes_make_arrays_of_bytes_bytes():
    assert run(pickle.dumps(bytearray(b"abc"), 5))[0] == b"abc"


def test_opcodes_read_text_of_python_2_as_text():
    assert run(b"\x80\x02U\x02abT\x02\0\0\0cdS'ef'\n\x87.")[0] == ("ab", "cd", "ef")
    assert run(b"U\x01\xff.")[0] == b"\xff"


BOMBS = {
    "reduce": lambda command: craft.called("os.system", command),
    "posix": lambda command: craft.called("posix.system", command),
    "eval": lambda command: craft.called("builtins.eval", command),
    "stack_global": lambda command: craft.text("os") + craft.text("system") + b"\x93(" + command + b"tR",
    "instance": lambda command: b"(" + command + b"ios\nsystem\n",
    "object": lambda command: b"(cos\nsystem\n" + command + b"o",
    "newobj": lambda command: b"csubprocess\nPopen\n(" + command + b"t\x81",
    "newobj_ex": lambda command: b"csubprocess\nPopen\n(" + command + b"t}" + craft.text("shell") + b"\x88s\x92",
    "build": lambda command: b"cbuiltins\nexec\n)\x81(" + command + b"tb",
    "nested": lambda command: craft.called("builtins.list", craft.called("builtins.map", b"cos\nsystem\n", command)),
    "called twice": lambda command: (
        craft.called("builtins.getattr", b"cos\n__dict__\n", command) + b"(" + command + b"tR"
    ),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", BOMBS)
def test_read_never_runs_anything(name, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("touch sentinel", "open('sentinel', 'w')"):
        bomb = craft.dictionary(weight=craft.tensor(), bomb=BOMBS[name](craft.text(command)))
        data = craft.pth(bomb) if form == "zip" else craft.legacy(bomb)
        (tmp_path / "net.pth").write_bytes(data)
        file = read("net.pth")
        np.testing.assert_array_equal(file.tensors["weight"], NUMBERS.reshape(2, 3))
        assert isinstance(file.other["bomb"], Placeholder)
        assert set(file.tensors) == {"weight"}
        with pytest.raises(ValueError, match="'bomb', but it is no tensor, but an object made by"):
            file.tensors["bomb"]
    assert not (tmp_path / "sentinel").exists()


def test_read_is_tested_with_bombs_that_are_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(craft.program(BOMBS["reduce"](craft.text("touch sentinel"))))
    assert (tmp_path / "sentinel").exists()


def test_read_refuses_a_tensor_that_depends_on_a_bomb_when_asked_for(tmp_path):
    bomb = craft.called("os.system", craft.text("true"))
    parts = bomb, b"K\0", craft.numbers(2), craft.numbers(1), b"\x89N"
    rebuilt = {
        "storage": craft.called("torch._utils._rebuild_tensor_v2", *parts),
        "parameter": craft.called("torch._utils._rebuild_parameter", bomb, b"\x88", b"N"),
        "subclass": craft.called("torch._tensor._rebuild_from_type_v2", b"cos\nsystem\n", b"ca\nb\n", b")", b"N"),
    }
    file = opened(tmp_path, craft.dictionary(good=craft.tensor(), **rebuilt))
    assert set(file.tensors) == {"good", *rebuilt}
    assert set(file.other) == set(rebuilt)
    assert file.tensors["good"].shape == (2, 3)
    for name in rebuilt:
        with pytest.raises(ValueError, match=rf"net.pth: expected a tensor '{name}', but it is .*(os\.system|a\.b)"):
            file.tensors[name]


def test_read_keeps_apart_whatever_a_module_refers_to(tmp_path):
    parameters = craft.dictionary(weight=craft.tensor())
    empty = b"ccollections\nOrderedDict\n)R"
    # The child's state refers to the child: a value on the way to itself.
    child = (
        b"cmylib\nLinear\n)\x81q\x01" + craft.dictionary(_parameters=parameters, parent=b"h\x01", _modules=empty) + b"b"
    )
    file = opened(tmp_path, b"cmylib\nNet\n)\x81" + craft.dictionary(_modules=craft.dictionary(fc=child)) + b"b")
    assert list(file.tensors) == ["fc.weight"]
    assert {name: value.name for name, value in file.other.items()} == {
        "": "mylib.Net",
        "fc": "mylib.Linear",
        "fc.parent": "mylib.Linear",
    }


def test_read_looks_into_dictionaries_and_lists_of_unknown_classes(tmp_path):
    made = b"caddict\nDict\n)\x81(" + craft.text("w") + craft.tensor() + b"u"
    listed = b"cmylib\nList\n)\x81(" + craft.tensor() + b"e"
    pairs = craft.called("collections.OrderedDict", b"](](" + craft.text("w") + craft.tensor() + b"ee")
    file = opened(tmp_path, craft.dictionary(a=made, b=listed, c=pairs))
    assert list(file.tensors) == ["a.w", "b.0", "c.w"]


def test_read_takes_tensors_of_very_old_files(tmp_path):
    bare = craft.storage() + b"K\1" + craft.numbers(2) + craft.numbers(2)
    file = opened(
        tmp_path,
        craft.dictionary(
            tensor=b"ctorch\nFloatTensor\n)\x81(" + bare + b"tb",
            rebuilt=craft.called("torch._utils._rebuild_tensor", bare),
            variable=b"ctorch.nn.parameter\nParameter\n)\x81(" + craft.tensor((6,), (1,)) + b"NN\x88\x89tb",
            wrapped=b"ctorch.nn.parameter\nParameter\n(" + craft.tensor((6,), (1,)) + b"\x88t\x81",
            unfilled=b"ctorch\nFloatTensor\n)\x81",
        ),
    )
    for name, expected in (("tensor", NUMBERS[1:5:2]), ("rebuilt", NUMBERS[1:5:2]), ("variable", NUMBERS)):
        np.testing.assert_array_equal(file.tensors[name], expected)
    np.testing.assert_array_equal(file.tensors["wrapped"], NUMBERS)
    with pytest.raises(ValueError, match="without numbers"):
        file.tensors["unfilled"]


def test_read_legacy_takes_views_of_storages_and_modules(tmp_path):
    view = craft.storage()[:-2] + b"(" + craft.text("view") + b"K\1K\4ttQ"
    assert craft.storage().endswith(b"tQ")
    part = craft.called("torch._utils._rebuild_tensor", view, b"K\0", craft.numbers(4), craft.numbers(1))
    kind = b"(" + craft.text("module") + b"cmylib\nNet\n" + craft.text("net.py") + craft.text("class Net: ...") + b"tQ"
    data = craft.legacy(craft.dictionary(whole=craft.tensor(), part=part, net=kind + b")\x81}b"))
    (tmp_path / "net").write_bytes(data)
    file = read(tmp_path / "net")
    np.testing.assert_array_equal(file.tensors["part"], NUMBERS[1:5])
    assert file.other["net"].name == "mylib.Net"
    outside = view.replace(b"K\1K\4", b"K\3K\4")
    part = craft.called("torch._utils._rebuild_tensor", outside, b"K\0", craft.numbers(4), craft.numbers(1))
    (tmp_path / "net").write_bytes(craft.legacy(part))
    with pytest.raises(ValueError, match="outside of its storage"):
        read(tmp_path / "net")


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((2, 3), (4, 1), 0),
        ((2,), (-1,), 5),
        ((2,), (1,), -1),
        ((-2,), (1,), 0),
        ((0,), (1,), 7),
        ((2, 3), (3,), 0),
        ((2**30, 2**30, 2**30), (0, 0, 0), 0),
    ],
)
def test_read_refuses_a_tensor_outside_of_its_storage(shape, strides, offset, tmp_path):
    with pytest.raises(ValueError, match=r"net\.pth: expected an intact file of tensors, but a tensor"):
        opened(tmp_path, craft.tensor(shape, strides, offset))


def test_read_refuses_a_tensor_of_more_axes_than_any_array(tmp_path):
    file = opened(tmp_path, craft.dictionary(w=craft.tensor((1,) * 65, (1,) * 65)))
    with pytest.raises(ValueError, match="something else than a storage, sizes and strides"):
        file.tensors["w"]


def test_read_takes_views_inside_of_their_storage(tmp_path):
    views = {
        "last": craft.tensor((1,), (2**30,), 5),
        "repeated": craft.tensor((2**20, 2**20, 6), (0, 0, 1)),
        "overlapping": craft.tensor((5, 2), (1, 1)),
        "empty": craft.tensor((0, 2**30, 2**30), (1, 1, 1), 6),
    }
    tensors = opened(tmp_path, craft.dictionary(**views)).tensors
    assert tensors["last"] == NUMBERS[5:]
    np.testing.assert_array_equal(tensors["repeated"][-1, -1], NUMBERS)
    np.testing.assert_array_equal(tensors["overlapping"][:, 1], NUMBERS[1:])
    assert tensors["empty"].shape == (0, 2**30, 2**30)


def test_read_refuses_bfloat16_that_repeats_itself(tmp_path):
    brain = {"count": 12, "kind": "torch.BFloat16Storage"}
    file = opened(tmp_path, craft.dictionary(w=craft.tensor((100, 12), (0, 1), **brain), v=craft.tensor(**brain)))
    assert file.tensors["v"].dtype == np.float32
    with pytest.raises(ValueError, match="repeats its elements"):
        file.tensors["w"]


def test_read_refuses_storages_that_disagree_with_the_file(tmp_path):
    for wrong, match in (
        ({"count": 5}, "has 24 bytes, and not 20"),
        ({"count": 2**31 - 1}, "has 24 bytes, and not"),
        ({"key": "1"}, "'net/data/1' is missing"),
        ({"key": "../0"}, "is missing"),
        ({"kind": "torch.OddStorage"}, "storage of an unknown kind, torch.OddStorage"),
        ({"kind": "os.FloatStorage"}, "storage of an unknown kind, os.FloatStorage"),
    ):
        with pytest.raises(ValueError, match=match):
            opened(tmp_path, craft.tensor(**wrong))
    with pytest.raises(ValueError, match="'0' has two sizes"):
        opened(tmp_path, craft.dictionary(a=craft.tensor(), b=craft.tensor(count=5)))


def repeated(levels):
    """Lists of lists, each of which holds the one below twice."""
    return b"]q\0" + b"".join(b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(levels))


@pytest.mark.parametrize(
    ("opcodes", "match"),
    {
        "cut off": (b"X\xff\xff\xff\x7fabc", "ends early"),
        "negative length": (b"T\xff\xff\xff\xff", "ends early"),
        "long of 2 GB": (b"\x8b\xff\xff\xff\x7f", "a number of 2147483647 bytes"),
        "long of many digits": (b"I" + b"9" * 10_000 + b"\n", "a number that is none"),
        "no number": (b"I1_0\n", "a number that is none"),
        "no float": (b"Fabc\n", "a number that is none"),
        "frame beyond the end": (b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN", "ends early"),
        "nothing on the stack": (b"0", "closes what it did not open"),
        "no mark": (b"t", "closes what it did not open"),
        "nothing to remember": (b"q\0", "takes a value where there is none"),
        "never remembered": (b"j\xff\xff\xff\xff", "remembers a value 4294967295"),
        "extension": (b"\x82\x01", "the instruction 0x82"),
        "buffer": (b"\x97", "the instruction 0x97"),
        "unhashable key": (b"}]Ns", "a key of type list"),
        "deep key": (b"}" + b")\x85\x85Ns", "a key of type tuple"),
        "key without value": (b"}(Nu", "a key without a value"),
        "item of a number": (b"K\1NNs", "puts a key into a value of type int"),
        "appended to a tuple": (b")Na", "appends to a value of type tuple"),
        "call of a number": (b"K\1)R", "calls what is no function"),
        "call without arguments": (b"cos\nsystem\nNR", "calls what is no function"),
        "name that is no text": (b"K\1K\2\x93", "imports a name that is no text"),
        "text that is none": (b"X\1\0\0\0\xff", "text that cannot be decoded"),
        "protocol": (b"\x80\x09N", "protocol 9"),
        "persistent text": (b"Pnumber 1\n", "no storage"),
        "persistent number": (b"K\1Q", "no storage"),
        "deep": (b"]" * 5000 + b"a" * 4999, "more than 100 deep"),
        "repeated": (repeated(60), "more memory than any network's"),
    }.values(),
)
def test_read_names_what_is_wrong_in_a_pickle(opcodes, match, tmp_path):
    with pytest.raises(ValueError, match=rf"net.pth: expected an intact file of tensors, but .*{match}.*\. \w"):
        opened(tmp_path, opcodes)


def test_opcodes_spend_nothing_on_positions_of_memory():
    assert run(b"Nr\xff\xff\xff\xffp4294967295\n.", size=1000)[0] is None


def test_read_comes_to_an_end_of_values_that_hold_themselves(tmp_path):
    file = opened(tmp_path, b"}q\0" + craft.text("self") + b"h\0s" + craft.text("w") + craft.tensor() + b"s")
    assert list(file.tensors) == ["w"]
    assert not file.other


def test_read_cannot_tell_values_of_one_name_apart(tmp_path):
    inner = craft.dictionary(b=craft.tensor(), c=b"N", d=craft.tensor())
    twice = {"a.b": craft.tensor(), "a.c": b"N", "a.d": b"N", "a.e": b"N"}
    file = opened(tmp_path, craft.dictionary(a=inner, **twice))
    assert (set(file.tensors), set(file.other)) == ({"a.b", "a.d"}, {"a.b", "a.c", "a.d", "a.e"})
    assert "several" in file.other["a.c"].reason
    for name in file.tensors:
        with pytest.raises(ValueError, match="one of several of that name"):
            file.tensors[name]


def test_read_takes_classes_as_keys(tmp_path):
    file = opened(tmp_path, b"}cmylib\nCallback\n" + craft.dictionary(w=craft.tensor(), n=b"K\1") + b"s")
    assert list(file.tensors) == ["mylib.Callback.w"]
    assert file.other["mylib.Callback.n"] == 1


@pytest.mark.parametrize("attack", ["much", "names", "keys", "pairs", "sizes", "keywords"])
def test_opcodes_spend_little_memory_on_few_bytes(attack):
    long = b"(" + b"N" * 300 + b"tq\0"
    pairs = b"](" + b"]K\1aK\2a" * 1000 + b"e\x85q\0"
    name = craft.text("a" * 10_000) + b"q\0"
    programs = {
        "much": b"]0" * 3000,
        "names": name + b"h\0h\0\x93" * 300,
        "keys": long + b"}h\0Ns" * 300,
        "pairs": pairs + b"ccollections\nOrderedDict\nh\0R" * 300,
        "sizes": long + b"ctorch._utils\n_rebuild_tensor\n(Nh\0h\0h\0tR" * 300,
        "keywords": long + b"ca\nb\nh\0}K\1K\1s\x92" * 300,
    }
    tracemalloc.start()
    with contextlib.suppress(Refusal):
        run(programs[attack] + b".", size=300_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400_000


def test_opcodes_pay_for_what_is_built():
    with pytest.raises(Refusal, match="more memory than any network's"):
        run(b"]0" * 10_000 + b"N.", size=300_000)
