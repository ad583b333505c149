"""A written program evaluated: every step is checked against the types that it is said to make.

Nothing of a document is trusted.  Primitives come from a closed list, parameters are plain values, and what JAX says of
both becomes an error that names the step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.sites.rules import Run, floating, with_backward_rule, with_forward_rule
from jaxprune.structured.programs.values import Unknown, decode, dtype, primitives

Document = Mapping[str, Any]

_SCATTERS = {
    getattr(lax, f"{name}_p").name: getattr(lax, name)
    for name in ("scatter", "scatter_add", "scatter_sub", "scatter_mul", "scatter_min", "scatter_max")
    if hasattr(lax, f"{name}_p") and hasattr(lax, name)
}


@dataclass
class Reader:
    """Reads a program for one number of images.

    Attributes:
      constants: the arrays that programs have of their own.
    """

    constants: Sequence[np.ndarray]
    _around: list[Callable[..., Any]] = field(default_factory=list)

    def program(self, document: Any, where: str = "") -> Run:
        """Makes a function of a program: values -> results.

        Raises:
          Unknown: it is none, or uses what is not known here.
        """
        if not isinstance(document, Mapping) or set(document) != {"inputs", "constants", "steps", "outputs"}:
            raise Unknown(f"no program where one was expected{where}")
        inputs = _types(document["inputs"])
        constants = [self._constant(number) for number in document["constants"]]
        steps: list[tuple[Callable[..., Any], list[Any], list[Any], str]] = []
        known = len(inputs) + len(constants)
        for number, step in enumerate(document["steps"]):
            here = f"{where} step {number}"
            if not isinstance(step, Mapping) or set(step) != {"do", "of", "makes", "with"}:
                raise Unknown(f"no step where one was expected ({here.strip()})")
            here += f", {str(step['do'])[:40]},"
            try:
                makes = _types(step["makes"])
                steps.append((self._step(step, here), _atoms(step["of"], known), makes, here))
            except (Unknown, KeyError, TypeError, ValueError, AttributeError) as error:
                raise _told(here, error) from error
            known += len(makes)
        return partial(_evaluated, inputs, constants, steps, _atoms(document["outputs"], known))

    def _constant(self, number: Any) -> np.ndarray:
        if type(number) is not int or not 0 <= number < len(self.constants):
            raise Unknown(f"the constant {str(number)[:40]}, of {len(self.constants)}")
        return self.constants[number]

    def _step(self, step: Document, where: str) -> Callable[..., Any]:
        name, params = step["do"], step["with"]
        if not isinstance(name, str):
            raise Unknown("a primitive that is not known here")
        if name in ("custom_jvp_call", "custom_vjp_call"):
            return self._ruled(name, params, where)
        if name in _HELD:
            return _HELD[name](self, params, where)
        if name not in primitives():
            raise Unknown("a primitive that is not known here")
        read = {key: decode(value) for key, value in params.items()}
        if name in _SCATTERS:
            _demand(params, "dimension_numbers", "indices_are_sorted", "mode", "unique_indices")
            return partial(_SCATTERS[name], **read)
        return partial(_bound, primitives()[name], read)

    def _ruled(self, name: str, params: Document, where: str) -> Callable[..., Any]:
        """A function with a derivative rule of its own."""
        if set(params) == {"same"}:
            depth = params["same"]
            if type(depth) is not int or not 0 <= depth < len(self._around):
                raise Unknown(f"a function around itself that is not there ({str(depth)[:40]})")
            return self._around[-1 - depth]
        forward = name == "custom_jvp_call"
        _demand(params, "primal", *(("rule",) if forward else ("forward", "backward")))
        primal, passes = self.program(params["primal"], f"{where} in"), dict[str, Run]()
        moving, results = floating(_types(params["primal"]["inputs"])), len(params["primal"]["outputs"])

        def asked(which: str) -> Run:
            return lambda given: passes[which](given)  # read below, as it may use the function itself

        if forward:
            function = with_forward_rule(primal, asked("rule"), results, moving)
        else:
            function = with_backward_rule(primal, asked("forward"), asked("backward"), results, moving)
        self._around.append(function)
        for which in params.keys() - {"primal"}:
            passes[which] = self.program(params[which], f"{where} in the rule, {which},")
        self._around.pop()
        return function

    def scan(self, params: Document, where: str) -> Callable[..., Any]:
        """A loop over slices."""
        _demand(params, "length", "reverse", "unroll", "constants", "carried", "body")
        body, constants, carried = (
            self.program(params["body"], f"{where} in"),
            params["constants"],
            params["carried"],
        )
        options = {key: params[key] for key in ("length", "reverse", "unroll")}

        def evaluated(*operands: Any) -> list[Any]:
            fixed, slices = operands[:constants], operands[constants + carried :]

            def turn(carry: Any, one: Any) -> tuple[Any, Any]:
                made = body([*fixed, *carry, *one])
                return made[:carried], made[carried:]

            last, stacked = lax.scan(turn, list(operands[constants : constants + carried]), list(slices), **options)
            return [*last, *stacked]

        return evaluated

    def while_(self, params: Document, where: str) -> Callable[..., Any]:
        """A loop until a condition holds no longer."""
        _demand(params, "cond_nconsts", "body_nconsts", "condition", "body")
        condition, body = (self.program(params[name], f"{where} in") for name in ("condition", "body"))
        asked, fixed = params["cond_nconsts"], params["body_nconsts"]

        def evaluated(*operands: Any) -> list[Any]:
            outside, inside, carry = operands[:asked], operands[asked : asked + fixed], operands[asked + fixed :]
            return lax.while_loop(
                lambda carry: condition([*outside, *carry])[0], lambda carry: body([*inside, *carry]), list(carry)
            )

        return evaluated

    def cond(self, params: Document, where: str) -> Callable[..., Any]:
        """A branch."""
        _demand(params, "branches")
        branches = [self.program(branch, f"{where} in") for branch in params["branches"]]
        taken = [lambda *given, branch=branch: branch(given) for branch in branches]
        return lambda which, *operands: lax.switch(which, taken, *operands)

    def remat(self, params: Document, where: str) -> Callable[..., Any]:
        """What is computed once more for its derivative."""
        _demand(params, "body", "policy", "prevent_cse")
        body, name = self.program(params["body"], f"{where} in"), params["policy"]
        policy = None if name is None else getattr(jax.checkpoint_policies, name, None)
        if name is not None and (policy is None or not name.endswith(("saveable", "dots", "dims"))):
            raise Unknown(f"the policy {str(name)[:40]!r}")
        return jax.checkpoint(lambda *given: body(given), policy=policy, prevent_cse=params["prevent_cse"])


_HELD = {"scan": Reader.scan, "while": Reader.while_, "cond": Reader.cond} | dict.fromkeys(
    ("remat2", "checkpoint"), Reader.remat
)


def _bound(primitive: Any, params: Mapping[str, Any], *operands: Any) -> list[Any]:
    made = primitive.bind(*operands, **params)
    return list(made) if primitive.multiple_results else [made]


def _evaluated(inputs: Any, constants: Any, steps: Any, outputs: Any, given: Sequence[Any]) -> list[Any]:
    _agree(given, inputs, "its inputs")
    values = [*given, *constants]
    for do, operands, makes, where in steps:
        try:
            made = do(*(_looked(atom, values) for atom in operands))
        except Unknown:
            raise
        except (
            TypeError,
            ValueError,
            KeyError,
            IndexError,
            AssertionError,
            AttributeError,
            NotImplementedError,
        ) as error:
            raise _told(where, error) from error
        made = list(made) if isinstance(made, (list, tuple)) else [made]
        _agree(made, makes, where)
        values += made
    return [_looked(atom, values) for atom in outputs]


def _looked(atom: Any, values: Sequence[Any]) -> Any:
    return values[atom] if isinstance(atom, int) else atom


def _agree(values: Sequence[Any], types: Sequence[Any], where: str) -> None:
    got = [(jnp.shape(value), jnp.result_type(value)) for value in values]
    if len(got) != len(types) or any(not _same(one, want) for one, want in zip(got, types, strict=True)):
        shown = (", ".join(f"{kind}{list(shape)}" for shape, kind in some) for some in (types_of(types), got))
        raise Unknown("{} it should be {}, but is {}".format(where.strip(), *shown))


def types_of(types: Sequence[Any]) -> list[tuple[tuple[Any, ...], Any]]:
    """Shapes and types."""
    return [(one.shape, one.dtype) for one in types]


def _same(got: tuple[Any, Any], want: Any) -> bool:
    keys = [jnp.issubdtype(kind, jax.dtypes.prng_key) for kind in (got[1], want.dtype)]
    return got[0] == want.shape and (all(keys) or got[1] == want.dtype)


def _types(values: Any) -> list[jax.ShapeDtypeStruct]:
    """Reads types and shapes."""
    found = []
    for kind, shape in values:
        made = jax.random.key(0).dtype if kind == "key" else dtype(kind)
        found.append(jax.ShapeDtypeStruct(tuple(shape), made))
    return found


def _atoms(values: Any, known: int) -> list[Any]:
    """Reads the numbers of values, and literals."""
    found = []
    for value in values:
        if isinstance(value, Mapping) and len(value) == 1:
            ((kind, number),) = value.items()
            found.append(_literal(kind, decode(number)))
        elif type(value) is int and 0 <= value < known:
            found.append(value)
        else:
            raise Unknown(f"the value {str(value)[:40]}, of {known}")
    return found


def _literal(kind: str, number: Any) -> Any:
    if isinstance(number, (bool, int, float)):
        return np.asarray(number, dtype(kind))
    if isinstance(number, (list, tuple, str)) or number is None:
        raise Unknown(f"the number {str(number)[:40]}")
    return jnp.asarray(number, dtype(kind))  # a number of images that is open


def _demand(params: Any, *names: str) -> None:
    if not isinstance(params, Mapping) or set(params) != set(names):
        raise Unknown(f"parameters {', '.join(names)}, but it has {', '.join(map(str, params))[:200]}")


def _told(where: str, error: Exception) -> Unknown:
    if isinstance(error, Unknown) and " step " in f" {error}":
        return error
    return Unknown(f"{where.strip()} {type(error).__name__ + ': ' if not isinstance(error, Unknown) else ''}{error}")
