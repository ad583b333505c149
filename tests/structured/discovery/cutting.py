"""The oracle: a program evaluated with smaller arrays everywhere, from what a walk says of every index of every value.

It is as plain as can be, and refuses what it does not know.  Where it runs at all, shapes fit; whether its outputs are
those of the whole program with zeros in the leaves is what tests ask.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxprune import tree
from jaxprune.structured.discovery.finding import follow
from jaxprune.structured.discovery.walk import CALLS, Walk, needed, opened


class Recording(Walk):
    """A walk that remembers the indices of what goes into every equation and comes out."""

    def __init__(self):
        super().__init__({})
        self.records: list[Any] = []

    def _equation(self, equation, operands, scope):
        results = super()._equation(equation, operands, scope)
        if equation.primitive.name not in CALLS:
            self.records.append(([one.axes for one in operands], [one.axes for one in results]))
        return results


class Cut:
    """A network without some units, their classes given: ``cut(params, state, images)`` of smaller leaves."""

    def __init__(self, network, images, found, gone):
        self.closed = jax.make_jaxpr(network.apply)(network.params, network.state, images)
        self.walk = Recording()
        names = [*tree.names(network.params), *tree.names(network.state)]
        self.leaves = follow(self.walk, self.closed, names)
        classes = found._classes
        alive = np.array([not gone & set(classes.atoms(label)) for label in range(classes.label.max() + 1)])
        self.alive = lambda nodes: alive[classes.label[nodes]]

    def cut(self, value, axes):
        for axis, nodes in enumerate(axes):
            value = jnp.take(value, np.flatnonzero(self.alive(nodes)), axis)
        return value

    def __call__(self, network, images):
        leaves = jax.tree.leaves((network.params, network.state))
        small = [self.cut(leaf, one.axes) for leaf, one in zip(leaves, self.leaves, strict=True)]
        self.next = iter(self.walk.records)
        (output,) = self.run(*opened(self.closed), [*small, images])
        return output

    def run(self, jaxpr, consts, inputs):
        values = dict(zip(jaxpr.invars, inputs, strict=True)) | dict(zip(jaxpr.constvars, consts, strict=True))
        whole = set(jaxpr.constvars)

        def look(atom, axes=None):
            value = atom.val if isinstance(atom, core.Literal) else values[atom]
            constant = isinstance(atom, core.Literal) or atom in whole
            return self.cut(jnp.asarray(value), axes) if constant and axes is not None else value

        for equation in needed(jaxpr):
            name = equation.primitive.name
            if name in CALLS:
                assert not any(atom in whole for atom in equation.invars if not isinstance(atom, core.Literal))
                results = self.run(*opened(equation.params[CALLS[name]]), [look(atom) for atom in equation.invars])
            else:
                before, after = next(self.next)
                operands = [look(atom, axes) for atom, axes in zip(equation.invars, before, strict=True)]
                results = self.step(equation, operands, before, after)
                for result, axes in zip(results, after, strict=True):
                    assert np.shape(result) == tuple(int(self.alive(nodes).sum()) for nodes in axes), equation
            values.update(zip(equation.outvars, results, strict=True))
        return [look(atom) for atom in jaxpr.outvars]

    def step(self, equation, operands, before, after):
        name, params = equation.primitive.name, dict(equation.params)
        shape = tuple(int(self.alive(nodes).sum()) for nodes in after[0])
        if name == "iota":
            whole = jax.lax.broadcasted_iota(params["dtype"], params["shape"], params["dimension"])
            return [self.cut(whole, after[0])]
        if name in ("slice", "gather", "split"):
            # By the whole result: each of its indices knows which it was.
            return self.moved(equation, operands, before, after)
        if name == "broadcast_in_dim":
            params["shape"] = shape
        elif name == "reshape":
            params["new_sizes"] = shape
        elif name == "pad":
            kept = [self.alive(nodes) for nodes in after[0]]
            params["padding_config"] = tuple(
                (int(alive[:low].sum()), int(alive[len(alive) - high :].sum()), between)
                for alive, (low, high, between) in zip(kept, params["padding_config"], strict=True)
            )
        elif name == "conv_general_dilated" and params["feature_group_count"] > 1:
            spec = params["dimension_numbers"]
            params["feature_group_count"] = operands[0].shape[spec.lhs_spec[1]] // operands[1].shape[spec.rhs_spec[1]]
        made = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(params))
        return list(made) if equation.primitive.multiple_results else [made]

    def moved(self, equation, operands, before, after):
        """Spreads the first operand out to its whole size, applies the equation, and cuts what comes."""
        shape = [len(nodes) for nodes in before[0]]
        places = np.ix_(*(np.flatnonzero(self.alive(nodes)) for nodes in before[0]))
        whole = jnp.full(shape, jnp.nan, operands[0].dtype).at[places].set(operands[0])
        assert all(self.alive(nodes).all() for axes in before[1:] for nodes in axes)
        made = equation.primitive.bind(
            whole, *operands[1:], **equation.primitive.get_bind_params(dict(equation.params))
        )
        made = made if equation.primitive.multiple_results else [made]
        return [self.cut(one, axes) for one, axes in zip(made, after, strict=True)]
