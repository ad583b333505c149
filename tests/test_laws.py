"""Laws of masks: what must hold for any scores, and on any number of devices."""

import functools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding, PartitionSpec

import jaxprune as jp

pytestmark = [
    pytest.mark.usefixtures("same_rank"),
    # Few values tie on purpose here; what ``prune`` makes is held against the definition of the warning.
    pytest.mark.filterwarnings("ignore::jaxprune.masks.TiesWarning"),
]

# Fixed shapes, so that hypothesis varies numbers and compiles nothing.  All but one leaf are prunable.
SHAPES = {"a": (3, 4), "b": (5, 1), "c": (2, 2, 4), "left": (3,)}
PRUNABLE = {"a": True, "b": True, "c": True, "left": False}
TOTAL = 33
LEVELS = (0.0, 0.1, 0.37, 0.5, 0.8, 0.97)
ALLOCATIONS = ("global", "uniform", "erk")
# Through the public function every count would be a program of its own.
COUNTS = {"uniform": jp.masks.allocations.uniform, "erk": jp.masks.allocations.erdos_renyi}
DTYPES = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)

# Few different values make many ties; both zeros are among them.
TIED = st.sampled_from([-2.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0])
# Subnormal numbers have a test of their own.
ANY = st.floats(-1e30, 1e30, allow_subnormal=False)


def trees(elements):
    return st.fixed_dictionaries(
        {name: hnp.arrays(np.float64, shape, elements=elements) for name, shape in SHAPES.items()}
    )


SCORES = st.one_of(trees(TIED), trees(ANY))
every_allocation = pytest.mark.parametrize("allocation", ALLOCATIONS)


def arrays(tree, dtype=None):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def flat(tree):
    return np.concatenate([np.asarray(tree[name]).ravel() for name in "abc"])


def prune(scores, sparsity, allocation="global"):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", jp.masks.TiesWarning)
        mask = jp.masks.unstructured(sparsity, allocation)(arrays(scores), PRUNABLE)
    assert np.asarray(mask["left"]).all()
    groups = [(flat(scores), flat(mask))]
    if allocation != "global":
        groups = [(np.ravel(scores[name]), np.ravel(mask[name])) for name in "abc"]
    decided, emptied = sum(decided_by_position(*group) for group in groups), [n for n in "abc" if not mask[n].any()]
    # Of at most 33 weights one is more than 1 %.
    assert len(caught) == (decided > 0 or len(emptied) > 0)
    for warning in caught:
        assert (f"position decided {decided} of the {(~flat(mask)).sum()} weights" in str(warning.message)) == (
            decided > 0
        )
        assert (f"no weight is left of {', '.join(emptied)}. " in str(warning.message)) == (len(emptied) > 0)
    return flat(mask)


def decided_by_position(scores, mask):
    """How many pruned weights have the score of one that was kept: all or none of those at the threshold."""
    return int(np.isin(scores[~mask], scores[mask]).sum())


def sorted_mask(scores, pruned):
    """The definition: a stable sort, in which -0.0 equals 0.0 and NaN comes first."""
    values = np.where(np.isnan(scores), -np.inf, np.where(scores == 0, 0.0, scores)).astype(np.float64)
    order = np.lexsort((np.arange(values.size), values, ~np.isnan(scores)))
    mask = np.ones(values.size, dtype=bool)
    mask[order[:pruned]] = False
    return mask


@given(SCORES, st.sampled_from(LEVELS))
def test_unstructured_is_that_of_a_stable_sort(scores, sparsity):
    np.testing.assert_array_equal(prune(scores, sparsity), sorted_mask(flat(scores), round(sparsity * TOTAL)))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: jnp.dtype(dtype).name)
@given(scores=st.one_of(trees(TIED), trees(st.floats(-100, 100, allow_subnormal=False, width=16))))
def test_unstructured_orders_every_type_of_float_as_by_a_stable_sort(dtype, scores):
    scores = arrays(scores, dtype)
    got = flat(jp.masks.unstructured(0.5)(scores, PRUNABLE))
    np.testing.assert_array_equal(got, sorted_mask(flat(scores).astype(np.float64), round(0.5 * TOTAL)))


# XLA on CPU compares subnormal numbers as zeros, so only the count is certain.
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("pruned", [1, 3, 5])
def test_unstructured_counts_subnormal_numbers_exactly(dtype, pruned):
    tiny = float(jnp.finfo(dtype).smallest_subnormal)
    scores = jnp.asarray(np.array([3, -1, 0, 1, 2, -2]) * tiny, dtype)
    assert jp.masks.unstructured(pruned / 6)([scores], [True])[0].sum() == 6 - pruned


@given(st.sampled_from(LEVELS))
def test_unstructured_compares_leaves_of_different_types_by_value(sparsity):
    values = np.random.default_rng(0).integers(-3, 3, TOTAL).astype(float)
    pieces = dict(zip("abc", np.split(values, [12, 17]), strict=True))
    mixed = {
        name: jnp.asarray(pieces[name].reshape(SHAPES[name]), dtype)
        for name, dtype in zip("abc", DTYPES[1:], strict=True)
    }
    mask = jp.masks.unstructured(sparsity)({**mixed, "left": jnp.zeros(3)}, PRUNABLE)
    np.testing.assert_array_equal(flat(mask), sorted_mask(values, round(sparsity * TOTAL)))


@functools.cache
def jitted(allocation="global", sparsity=0.5):
    return jax.jit(lambda scores: jp.masks.unstructured(sparsity, allocation)(scores, PRUNABLE))


EXTREME = st.sampled_from([-np.inf, np.inf, np.nan, -1.0, -0.0, 0.0, 2.0, 1e308])


@given(trees(EXTREME))
def test_unstructured_under_jit_ranks_nan_lowest_and_infinities_at_the_ends(scores):
    got = flat(jitted()(arrays(scores)))
    np.testing.assert_array_equal(got, sorted_mask(flat(scores), round(0.5 * TOTAL)))


def test_unstructured_under_jit_prunes_nothing_where_nothing_is_wanted():
    scores = [jnp.array([[jnp.nan], [1.0]]), jnp.arange(20.0).reshape(2, 10)]
    [mask] = jax.jit(lambda scores: jp.masks.unstructured(0.0)(scores, [True]))(scores[:1])
    assert np.asarray(mask).all()
    # Erdős-Rényi leaves the small leaf dense.
    first, _ = jax.jit(lambda scores: jp.masks.unstructured(0.05, "erk")(scores, [True, True]))(scores)
    assert np.asarray(first).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_masks_refuse_scores_that_are_not_finite_outside_jit(bad):
    scores = arrays({name: np.ones(shape) for name, shape in SHAPES.items()})
    scores["b"] = scores["b"].at[2].set(bad)
    for select in (jp.masks.unstructured(0.5), jp.masks.n_of_m(1, 1)):
        with pytest.raises(
            ValueError, match=r"scores: expected finite numbers, but \['b'\] holds 1 that are NaN or inf"
        ):
            select(scores, PRUNABLE)


@every_allocation
@given(SCORES)
def test_unstructured_is_the_same_inside_jit(allocation, scores):
    np.testing.assert_array_equal(flat(jitted(allocation)(arrays(scores))), prune(scores, 0.5, allocation))


# Of "global" the stable sort says it, and that sparser masks keep less.
@pytest.mark.parametrize("allocation", ["uniform", "erk"])
@given(SCORES, st.sampled_from(LEVELS))
def test_unstructured_counts_exactly(allocation, scores, sparsity):
    mask = prune(scores, sparsity, allocation)
    assert (~mask).sum() == round(sparsity * TOTAL)


def test_unstructured_counts_exactly_where_float32_cannot():
    # Above 2^24 float32 has no odd numbers; inside jit a leaf is counted as it lies.
    scores, wanted = jax.ShapeDtypeStruct((2**24 + 3,), jnp.float32), 2**24 + 1
    prune = jax.jit(lambda scores: jp.masks.unstructured(wanted / scores.size)([scores], [True]))
    [mask] = prune(jnp.zeros(scores.shape, scores.dtype))
    assert np.count_nonzero(~np.asarray(mask)) == wanted
    assert jp.masks.sparsity([mask], [True]) == pytest.approx(wanted / scores.size, abs=1e-9)


# Where a leaf got a weight back as sparsity grows, the masks of a schedule would not be nested.
@pytest.mark.parametrize("allocation", ["uniform", "erk"])
@pytest.mark.parametrize(
    "shapes", [[(6, 6), (6, 6), (6, 2)], [(6, 1), (6, 1), (2, 1)], [(3, 4), (5, 1), (2, 2, 4), (9, 9)]]
)
def test_unstructured_gives_no_leaf_weights_back_as_sparsity_grows(allocation, shapes):
    before = np.zeros(len(shapes))
    for pruned in range(1, sum(int(np.prod(shape)) for shape in shapes)):
        counts = np.array(COUNTS[allocation](shapes, pruned))
        assert (counts >= before).all(), f"{pruned} pruned: {before} became {counts}"
        before = counts


@every_allocation
@given(
    SCORES, st.sampled_from(LEVELS), st.sampled_from([lambda x: 2 * x - 7, np.cbrt, np.arctan, lambda x: np.exp(x / 8)])
)
def test_unstructured_does_not_change_by_strictly_increasing_maps_of_scores(allocation, scores, sparsity, function):
    # Ranks first: of arbitrary floats, rounding maps different ones to equal ones.
    ranks = np.unique(np.concatenate([leaf.ravel() for leaf in scores.values()]))
    scores = {name: np.searchsorted(ranks, leaf).astype(float) for name, leaf in scores.items()}
    mapped = {name: function(leaf) for name, leaf in scores.items()}
    np.testing.assert_array_equal(prune(mapped, sparsity, allocation), prune(scores, sparsity, allocation))


@every_allocation
@given(st.permutations(range(52)), st.sampled_from(LEVELS), st.permutations(range(4)), st.permutations(range(3)))
def test_unstructured_without_ties_is_permuted_as_the_entries_are(allocation, values, sparsity, columns, rows):
    pieces = np.split(np.array(values, dtype=float), [12, 17, 33, 36])
    scores = {name: piece.reshape(SHAPES[name]) for name, piece in zip(SHAPES, pieces, strict=False)}
    mask = jp.masks.unstructured(sparsity, allocation)(arrays(scores), PRUNABLE)
    moved = {**scores, "a": scores["a"][rows][:, columns], "c": scores["c"][:, ::-1]}
    moved_mask = jp.masks.unstructured(sparsity, allocation)(arrays(moved), PRUNABLE)
    np.testing.assert_array_equal(moved_mask["a"], np.asarray(mask["a"])[rows][:, columns])
    np.testing.assert_array_equal(moved_mask["b"], mask["b"])
    np.testing.assert_array_equal(moved_mask["c"], np.asarray(mask["c"])[:, ::-1])


@given(st.permutations(range(33)), st.sampled_from(LEVELS))
def test_unstructured_without_ties_does_not_depend_on_the_order_of_axes_and_leaves(values, sparsity):
    a, b, c = (
        p.reshape(SHAPES[n]) for n, p in zip("abc", np.split(np.array(values, dtype=float), [12, 17]), strict=True)
    )
    select = jp.masks.unstructured(sparsity)
    first = select(arrays([a, b, c]), [True] * 3)
    second = select(arrays([c.transpose(2, 0, 1), a.T, b]), [True] * 3)
    np.testing.assert_array_equal(second[0], first[2].transpose(2, 0, 1))
    np.testing.assert_array_equal(second[1], first[0].T)
    np.testing.assert_array_equal(second[2], first[1])


@given(SCORES, st.sampled_from(LEVELS))
def test_apply_twice_is_apply_once(scores, sparsity):
    mask = jp.masks.unstructured(sparsity)(arrays(scores), PRUNABLE)
    once = jp.masks.apply(mask, arrays(scores))
    jax.tree.map(np.testing.assert_array_equal, jp.masks.apply(mask, once), once)
    for name, leaf in once.items():
        np.testing.assert_array_equal(leaf, np.where(mask[name], scores[name], 0))


def test_apply_removes_nan_and_keeps_the_type():
    params = {"w": jnp.array([jnp.nan, jnp.inf, 2.0], jnp.bfloat16)}
    got = jp.masks.apply({"w": jnp.array([False, False, True])}, params)["w"]
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(float), [0, 0, 2])


def shape_lists():
    return st.lists(hnp.array_shapes(min_dims=1, max_dims=4, max_side=9), min_size=1, max_size=8)


@pytest.mark.parametrize("allocation", ["uniform", "erk"])
@given(shapes=shape_lists(), share=st.floats(0, 1, exclude_max=True))
def test_unstructured_allocates_counts_that_sum_exactly_and_fit_every_leaf(allocation, shapes, share):
    sizes = np.array([np.prod(shape) for shape in shapes])
    pruned = min(round(share * int(sizes.sum())), int(sizes.sum()))
    counts = np.array(COUNTS[allocation](shapes, pruned))
    assert counts.sum() == pruned
    assert ((counts >= 0) & (counts <= sizes)).all()
    if allocation == "uniform":
        # What rounding moves between leaves is at most half a weight each.
        assert (np.abs(counts - sizes * pruned / sizes.sum()) <= 1 + len(shapes) / 2).all()


def test_unstructured_erk_density_is_proportional_to_sum_over_product():
    scores = {"wide": jnp.zeros((40, 50)), "conv": jnp.zeros((3, 3, 10, 20))}
    mask = jp.masks.unstructured(0.9, "erk")(scores, {"wide": True, "conv": True})
    kept = {name: int(leaf.sum()) for name, leaf in mask.items()}
    assert kept == {"wide": round(380 * 90 / 126), "conv": round(380 * 36 / 126)}


@pytest.mark.parametrize(("n", "m", "axis"), [(1, 2, -2), (2, 4, -2), (3, 4, -1), (2, 4, 0), (4, 4, -2)])
@given(st.data())
def test_n_of_m_keeps_the_n_largest_of_every_group(n, m, axis, data):
    scores = data.draw(hnp.arrays(np.float64, (4, 8, 4), elements=st.one_of(TIED, ANY)))
    got = jp.masks.n_of_m(n, m, axis)({"w": jnp.asarray(scores), "b": jnp.zeros(3)}, {"w": True, "b": False})
    assert np.asarray(got["b"]).all()
    groups, kept = (np.moveaxis(x, axis, -1).reshape(-1, m) for x in (scores, np.asarray(got["w"])))
    for group, mask in zip(groups, kept, strict=True):
        np.testing.assert_array_equal(mask, sorted_mask(group, m - n))


@given(hnp.arrays(np.float64, (4, 8), elements=EXTREME))
def test_n_of_m_keeps_exactly_n_under_jit_also_with_nan(scores):
    mask = np.asarray(n_of_m_jitted({"w": jnp.asarray(scores)})["w"])
    for group, kept in zip(scores.reshape(1, 4, 8)[0].T, mask.T, strict=True):
        np.testing.assert_array_equal(kept, sorted_mask(group, 2))


@jax.jit
def n_of_m_jitted(scores):
    return jp.masks.n_of_m(2, 4)(scores, {"w": True})


# Sharding.  Every axis is split once; "odd" cannot be split and stays whole on every device.
SPLIT = {
    "rows": ((16, 3), PartitionSpec("data", None)),
    "columns": ((5, 8), PartitionSpec(None, "data")),
    "inside": ((3, 3, 8, 2), PartitionSpec(None, None, "data", None)),
    "odd": ((7, 3), PartitionSpec()),
    "vector": ((8,), PartitionSpec("data")),
}


def warned(select, scores, prunable):
    """What is said of a mask, or None."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", jp.masks.TiesWarning)
        select(scores, prunable)
    return str(caught[0].message) if caught else None


def test_unstructured_warns_of_scores_that_say_nothing():
    """The failures of the reports: all zero, all overflown to one value, one leaf at zero."""
    rng = np.random.default_rng(0)
    values = {"a": rng.random((40, 50)).astype(np.float32), "b": 1 + rng.random((10, 10)).astype(np.float32)}
    prunable, half = {"a": True, "b": True}, jp.masks.unstructured(0.5)
    assert warned(half, values, prunable) is None
    for constant in (0.0, np.finfo(np.float32).max):
        same = {name: np.full_like(leaf, constant) for name, leaf in values.items()}
        message = (
            r"scores: position decided 1050 of the 1050 weights that were pruned \(100\.0%\): their scores equal those"
        )
        assert re.match(message, warned(half, same, prunable))
    message = warned(half, {**values, "b": np.zeros_like(values["b"])}, prunable)
    assert message.startswith("scores: no weight is left of b. Inspect the scores: are they zero")
    # One per cent may tie by chance, as weights of few bits do.
    cut, few = np.sort(values["a"].ravel())[1049], values["a"].copy()
    np.put(few, np.argsort(few, axis=None)[1040:1060], cut)
    assert warned(half, {**values, "a": few}, prunable) is None
    np.put(few, np.argsort(few, axis=None)[1035:1065], cut)
    assert "position decided 15 of the 1050" in warned(half, {**values, "a": few}, prunable)


def test_unstructured_is_silent_where_all_that_ties_is_pruned_or_was_before():
    values = np.random.default_rng(0).random((20, 10)).astype(np.float32)
    values[:5] = 0
    assert warned(jp.masks.unstructured(0.5), {"a": values}, {"a": True}) is None
    assert warned(jp.masks.unstructured(0.25), {"a": values}, {"a": True}) is None
    assert "position decided 40 of the 40" in warned(jp.masks.unstructured(0.2), {"a": values}, {"a": True})
    # So the rounds of jaxprune.pruning say it of a leaf once, when it loses its last weight.
    lost = {"a": values, "b": np.full((2, 2), np.finfo(np.float32).min)}
    assert warned(jp.masks.unstructured(0.5), lost, {"a": True, "b": True}) is None


def test_unstructured_ranks_whole_numbers_and_numbers_of_python():
    scores = {"a": np.array([[3, 1], [2, 4]]), "b": 2.5, "c": jnp.arange(2)}
    mask = jp.masks.unstructured(0.4)(scores, {"a": True, "b": True, "c": False})
    np.testing.assert_array_equal(mask["a"], [[True, False], [False, True]])
    assert bool(mask["b"])
    assert jax.tree.map(np.shape, jp.masks.ones(scores)) == jax.tree.map(np.shape, scores)
    assert "no weight is left of b" in warned(jp.masks.unstructured(0.6), scores, {"a": True, "b": True, "c": False})


def test_n_of_m_names_an_axis_that_a_kernel_has_not():
    with pytest.raises(ValueError, match=r"prunable: 2 does not divide the input axis \(3\) of w, .* need axis=1\."):
        jp.masks.n_of_m(1, 2, axis=3)({"w": jnp.ones((2, 2))}, {"w": True})


def test_n_of_m_warns_where_position_decided():
    values = np.random.default_rng(0).random((8, 100)).astype(np.float32)
    select = jp.masks.n_of_m(2, 4)
    assert warned(select, {"a": values}, {"a": True}) is None
    values[:2, :6] = 0  # pruned, both of them
    assert warned(select, {"a": values}, {"a": True}) is None
    values[2, :2] = 0  # three zeros in a group: two of them go, by position
    assert warned(select, {"a": values}, {"a": True}) is None  # 4 of 400 are 1 %
    values[2, 2] = 0
    assert warned(select, {"a": values}, {"a": True}).startswith("scores: position decided 6 of the 400 weights")


def sharded(ties):
    rng, mesh = np.random.default_rng(0), jp.mesh.make()
    assert mesh.devices.size == 8
    draw = (lambda shape: rng.integers(-2, 3, shape).astype(float)) if ties else (lambda shape: rng.normal(size=shape))
    whole = {name: jnp.asarray(draw(shape)) for name, (shape, _) in SPLIT.items()}
    split = {name: jax.device_put(whole[name], NamedSharding(mesh, spec)) for name, (_, spec) in SPLIT.items()}
    return whole, split


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("select", [("global", 0.3), ("global", 0.9), ("uniform", 0.5), ("erk", 0.8)], ids=str)
def test_unstructured_on_eight_devices_is_that_on_one_and_gathers_nothing(ties, select):
    allocation, sparsity = select
    whole, split = sharded(ties)
    prunable = jax.tree.map(lambda _: True, whole)
    select = jp.masks.unstructured(sparsity, allocation)
    expected = select(whole, prunable)
    jax.tree.map(np.testing.assert_array_equal, select(split, prunable), expected)
    message = warned(select, split, prunable)
    assert message == warned(select, whole, prunable)
    assert (message is not None) == ties
    compiled = jax.jit(lambda scores: select(scores, prunable)).lower(split).compile()
    jax.tree.map(np.testing.assert_array_equal, compiled(split), expected)
    program = compiled.as_text()
    assert "all-reduce" in program
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in program


def test_unstructured_of_sharded_scores_is_sharded_like_them():
    _, split = sharded(ties=False)
    mask = jp.masks.unstructured(0.5)(split, jax.tree.map(lambda _: True, split))
    for name in ("rows", "columns", "inside"):
        assert mask[name].sharding.is_equivalent_to(split[name].sharding, split[name].ndim)


def test_n_of_m_on_eight_devices_is_that_on_one_and_gathers_nothing():
    values = np.random.default_rng(0).integers(-2, 3, (3, 8, 16)).astype(float)
    select = jp.masks.n_of_m(2, 4)
    for axis in (0, 1, 2):
        spec = [None] * 3
        if values.shape[axis] % 8 == 0:
            spec[axis] = "data"
        split = {"w": jax.device_put(values, NamedSharding(jp.mesh.make(), PartitionSpec(*spec)))}
        np.testing.assert_array_equal(
            select(split, {"w": True})["w"], select({"w": jnp.asarray(values)}, {"w": True})["w"]
        )
        if axis == 2:  # along the input axis a group may lie on two devices
            compiled = jax.jit(lambda scores: select(scores, {"w": True})).lower(split).compile()
            assert "all-gather" not in compiled.as_text()


def test_unstructured_on_a_mesh_of_two_axes_is_that_on_one_device():
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    values = np.random.default_rng(0).integers(-3, 4, (8, 6)).astype(float)
    split = jax.device_put(values, NamedSharding(mesh, PartitionSpec("x", "y")))
    select = jp.masks.unstructured(0.6)
    np.testing.assert_array_equal(select([split], [True])[0], select([jnp.asarray(values)], [True])[0])


def test_shard_leaves_splits_what_it_can_and_changes_no_number():
    mesh = jp.mesh.make()
    tree = {"even": np.arange(48.0).reshape(3, 16), "odd": np.arange(3.0), "scalar": np.float64(2)}
    got = jp.mesh.shard_leaves(mesh, tree)
    jax.tree.map(np.testing.assert_array_equal, got, tree)
    assert got["even"].sharding.spec == PartitionSpec(None, "data")
    assert got["odd"].sharding.is_fully_replicated
    assert jp.mesh.replicate(mesh, tree)["even"].sharding.is_fully_replicated


def test_shard_batch_refuses_a_batch_that_the_devices_do_not_divide():
    with pytest.raises(ValueError, match=r"batch: expected a multiple of 8, .*but got 6.*pads"):
        jp.mesh.shard_batch(jp.mesh.make(), {"image": np.ones((6, 2))})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jp.masks.unstructured(1.0), r"sparsity: expected a fraction in \[0, 1\).*got 1.0.*pass 0.9"),
        (lambda: jp.masks.unstructured(-0.1), "sparsity: expected a fraction"),
        (lambda: jp.masks.unstructured(float("nan")), "sparsity: expected a fraction"),
        (lambda: jp.masks.unstructured(0.5, "layer"), "allocation: unknown value 'layer'.*Known: erk, global, uniform"),
        (lambda: jp.masks.n_of_m(0, 4), "n, m: expected 0 < n <= m, but got n=0 and m=4"),
        (lambda: jp.masks.n_of_m(5, 4), "n, m: expected 0 < n <= m, but got n=5 and m=4"),
    ],
)
def test_masks_name_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("prunable", "error", "message"),
    [
        ({"w": False, "b": False}, ValueError, "prunable: expected at least one True leaf.*nothing to prune"),
        ({"w": True}, ValueError, "prunable: expected one Python bool for every leaf.*jp.tree.prunable"),
        (
            {"w": jnp.array(True), "b": False},
            TypeError,
            "prunable: expected Python bools.*For a choice of single weights",
        ),
        (
            {"w": True, "b": True},
            ValueError,
            r"prunable: 2 does not divide the input axis \(-2\) of b, whose shape is \(3,\)",
        ),
    ],
)
def test_n_of_m_names_a_bad_prunable(prunable, error, message):
    scores = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    with pytest.raises(error, match=message):
        jp.masks.n_of_m(1, 2)(scores, prunable)


def test_unstructured_refuses_more_weights_than_positions():
    huge = {"w": jax.ShapeDtypeStruct((2**16, 2**16 + 1), jnp.float32)}
    with pytest.raises(ValueError, match=r"scores: expected fewer than 2\^32 prunable weights.*got 4295032832"):
        jax.eval_shape(lambda scores: jp.masks.unstructured(0.5)(scores, {"w": True}), huge)


def test_sparsity_counts_prunable_weights_only():
    mask = {"w": jnp.array([True, False, False, False]), "b": jnp.array([True])}
    assert jp.masks.sparsity(mask, {"w": True, "b": False}) == 0.75
    assert jp.masks.sparsity(jp.masks.ones(mask), {"w": True, "b": True}) == 0
    with pytest.raises(ValueError, match="prunable: expected at least one True leaf"):
        jp.masks.sparsity(mask, {"w": False, "b": False})
