"""What the few names stand for that PyTorch writes about tensors; every other name stays a placeholder."""

from typing import Any

from jaxprune.tensor_files import kinds
from jaxprune.tensor_files.machine import PLAIN
from jaxprune.tensor_files.refusal import Allowance, Refusal
from jaxprune.tensor_files.values import Placeholder, Storage, Tensor, Unfilled, Unreadable

_STORAGES = {
    "BoolStorage": "bool",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "HalfStorage": "float16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "BFloat16Storage": "bfloat16",
}
STORAGE_OF = {kind: name for name, kind in _STORAGES.items()}
_BYTES = ("UntypedStorage", "_UntypedStorage")
# Numbers that NumPy has not, or that no network's weights are: bytes of each.
_OTHER_SIZES = {
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}
_DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_MOST_ARGUMENTS = 16
_CLASSES = frozenset(
    ["torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.autograd.variable.Variable"]
    + [f"torch.{name.removesuffix('Storage')}Tensor" for name in _STORAGES]
)


class TorchNames:
    """The meaning of a PyTorch pickle; a ``Meaning`` of ``opcodes``.

    Args:
      allowance: the memory that dictionaries made by calls may take.

    Attributes:
      storages: those that were named, by their keys.
    """

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.storages: dict[str, Storage] = {}

    def call(self, function: Placeholder, arguments: tuple[Any, ...]) -> Any:
        """Makes a record of a tensor, a dictionary or a tuple, or a placeholder."""
        name = function.name
        # What a call returned is called: unknown, whatever it was made by.
        if function.arguments is not None or len(arguments) > _MOST_ARGUMENTS:
            return Placeholder(name, arguments)
        if name in _DICTIONARIES:
            made = self._dictionary(arguments)
            return Placeholder(name, arguments) if made is None else made
        if name == "torch.Size" and arguments and isinstance(arguments[0], (tuple, list)):
            return arguments[0]
        # Lists and dictionaries of TorchScript carry their type.
        if name.startswith("torch.jit._pickle.") and arguments and isinstance(arguments[0], (list, dict)):
            return arguments[0]
        if name in _CLASSES:
            return _wrapped(name, arguments) if arguments else Unfilled()
        if name in _PARAMETERS:
            return _wrapped(name, arguments)
        if name == "torch._tensor._rebuild_from_type_v2":
            return self._of_class(arguments)
        if name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            return _view(name, arguments, None)
        if name == "torch._utils._rebuild_tensor_v3":
            return _view(name, arguments[:6] + arguments[7:], arguments[6] if len(arguments) > 6 else None)
        if name.startswith("torch.") and "_rebuild" in name:
            return Unreadable(f"of a kind that only PyTorch reads ({name})")
        return Placeholder(name, arguments)

    def build(self, instance: Any, state: Any) -> Any:
        """Fills tensors of very old files; keeps the state of a placeholder; drops attributes of dictionaries."""
        if isinstance(instance, Unfilled):
            if isinstance(state, tuple) and len(state) == 4:
                instance.content = _view("torch.Tensor", state, None)
            elif isinstance(state, tuple) and len(state) == 5:
                instance.content = _wrapped("torch.autograd.variable.Variable", state)
        elif isinstance(instance, Placeholder):
            instance.state = state
        return instance

    def persistent(self, identity: Any) -> Any:
        """Makes a record of a storage; the class of a module, which the legacy format puts here, is itself."""
        parts: tuple[Any, ...] = identity if isinstance(identity, tuple) else ()
        if len(parts) == 4 and parts[0] == "module":
            return parts[1]
        if len(parts) < 5 or parts[0] != "storage" or not isinstance(parts[1], Placeholder):
            raise Refusal("it refers to something outside of its pickle that is no storage")
        made, key, count = parts[1], parts[2], parts[4]
        key = str(key) if type(key) is int else key
        if not isinstance(key, str) or not kinds.is_count(count):
            raise Refusal("a storage has no name or no size")
        module, _, name = made.name.rpartition(".")
        kind = "uint8" if name in _BYTES else _STORAGES.get(name)
        size = kinds.size_of(kind) if kind else _OTHER_SIZES.get(name)
        if module not in ("torch", "torch.cuda", "torch.storage") or size is None:
            raise Refusal(f"it has a storage of an unknown kind, {made.name}")
        storage = Storage(key, kind, size, count, _part(parts[5]) if len(parts) > 5 else None)
        # The first to name a storage says how large it is; all must agree.
        first = self.storages.setdefault(key, storage)
        if (first.count * first.size) != count * size:
            raise Refusal(f"its storage {key!r} has two sizes")
        return storage

    def _of_class(self, arguments: tuple[Any, ...]) -> Any:
        """A tensor with attributes, or of a class made from Tensor."""
        if len(arguments) != 4 or not all(isinstance(part, Placeholder) for part in arguments[:2]):
            return Unreadable("rebuilt from something else than its parts")
        function, kind, parts, _ = arguments
        if kind.name not in _CLASSES or not isinstance(parts, tuple) or function.name.endswith("_from_type_v2"):
            return Unreadable(f"of a class that was not imported ({kind.name})")
        return _wrapped(function.name, (self.call(function, parts),))

    def _dictionary(self, arguments: tuple[Any, ...]) -> dict[Any, Any] | None:
        """What a call of a dictionary's class makes, as far as files of tensors have such calls."""
        content = arguments[-1] if arguments else None
        if content is None or isinstance(content, Placeholder):
            return {}  # the placeholder: what would make missing entries
        if isinstance(content, dict):
            return content
        if not isinstance(content, (list, tuple)):
            return None
        self.allowance.spend(128 * len(content))
        if all(isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], PLAIN) for pair in content):
            return dict(content)
        return None


def _wrapped(name: str, arguments: tuple[Any, ...]) -> Any:
    """What a parameter is of: its data, its first argument."""
    data = arguments[0] if arguments else None
    if isinstance(data, Placeholder):
        return Unreadable(f"made by what was not called ({data.name})")
    if isinstance(data, (Tensor, Unfilled, Unreadable)):
        return data
    return Unreadable(f"made by {name} of something that is no tensor")


def _view(name: str, arguments: tuple[Any, ...], dtype: Any) -> Tensor | Unreadable:
    """A tensor of (storage, offset, sizes, strides, requires_grad, hooks, metadata); those after strides may miss."""
    if len(arguments) < 4 or not all(_is_short(part) for part in arguments[2:4]):
        return Unreadable(f"made by {name} of something else than a storage, sizes and strides")
    storage, offset, shape, strides = arguments[:4]
    if isinstance(storage, Placeholder):
        return Unreadable(f"made by what was not called ({storage.name})")
    if not isinstance(storage, Storage):
        return Unreadable(f"made by {name} of something that is no storage")
    if len(arguments) > 6 and arguments[6]:
        return Unreadable("marked as conjugated or negated")
    kind = dtype.name.removeprefix("torch.") if isinstance(dtype, Placeholder) else storage.kind
    if kind not in kinds.KINDS:
        return Unreadable("of numbers that NumPy has not")
    return Tensor(storage, offset, tuple(shape), tuple(strides), kind)


def _is_short(value: Any) -> bool:
    """Whether a value can be the sizes or strides of an array."""
    return isinstance(value, (tuple, list)) and len(value) <= kinds.AXES


def _part(value: Any) -> tuple[int, int] | None:
    """The part of a storage that the legacy format means, from (name, first, count)."""
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) != 3 or not all(map(kinds.is_count, value[1:])):
        raise Refusal("a view of a storage has no place or no size")
    return value[1], value[2]
