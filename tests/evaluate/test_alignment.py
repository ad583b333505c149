"""Alignment with people: closed forms (E1 to E10 and S1 to S3 of the reference), and the field's files."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprune.data.distortions import DISTORTIONS
from jaxprune.evaluate import alignment, observers
from jaxprune.evaluate.alignment import Alignment, Trials, error_consistency, make_trials, observed_consistency

HUMAN = Path(__file__).parents[3] / "shared" / "data" / "human"
RNG = np.random.default_rng


def answers(correct: np.ndarray, subject: str, *, condition="0", dataset="toy", first: int = 0) -> Trials:
    """Trials of which the given ones are right; images are numbered from ``first``."""
    given = np.where(correct, "dog", "cat")
    names = [f"{i:04d}_toy_{subject}_dog{i + first}.png" for i in range(len(correct))]
    return make_trials(subject, given, ["dog"] * len(correct), names, condition=condition, dataset=dataset)


def joined(*parts: Trials) -> Trials:
    return Trials(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def draws(seed: int, shape, p: float = 0.5) -> np.ndarray:
    return RNG(seed).random(shape) < p


def cohen(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa as it is printed: from the 2 x 2 table of counts."""
    table = np.array([[np.sum((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)])
    total = table.sum()
    observed = np.trace(table) / total
    expected = np.sum(table.sum(axis=0) * table.sum(axis=1)) / total**2
    return (observed - expected) / (1 - expected)


# --------------------------------------------------------------------------------------------------- error consistency


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_error_consistency_e1_of_identical_observers_is_one(p):
    correct = draws(0, 50, p)
    assert error_consistency(correct, correct.copy()) == observed_consistency(correct, correct.copy()) == 1.0


def test_error_consistency_e2_of_independent_observers_is_zero():
    one, two = (np.tile(row, 25) for row in ([True, True, False, False], [True, False, True, False]))
    assert error_consistency(one, two) == 0.0
    drawn = error_consistency(draws(1, 200_000, 0.7), draws(2, 200_000, 0.4))
    assert abs(drawn) < 4 / np.sqrt(200_000)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 1.0])
def test_error_consistency_e3_of_observers_who_copy_with_probability_rho_is_rho(rho):
    n, p = 200_000, 0.7
    made = observers.simulated(p, np.zeros(n, int), 16, observers=3, rho=rho, seed=5)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert error_consistency(made.correct[a], made.correct[b]) == pytest.approx(rho, abs=0.011)
    assert observers.expected_consistency(np.full(4, p), rho) == pytest.approx(rho, abs=1e-12)


@pytest.mark.parametrize("wrong", [1, 3, 5])
def test_error_consistency_e4_of_complementary_observers(wrong):
    correct = np.arange(10) >= wrong
    p = 1 - wrong / 10
    expected = -2 * p * (1 - p) / (1 - 2 * p * (1 - p))
    assert error_consistency(correct, ~correct) == pytest.approx(expected, abs=1e-12)
    assert error_consistency(np.arange(10) < 5, np.arange(10) >= 5) == -1.0


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("n", [3, 7, 49, 160])
def test_error_consistency_e5_is_exactly_zero_where_one_is_always_right(n, always):
    assert error_consistency(np.full(n, always), np.arange(n) % 3 == 1) == 0.0


def test_bounds_e6_of_two_accuracies():
    one = np.arange(10) < 8
    apart, together = np.arange(10) >= 4, np.arange(10) < 6  # 0.6 right, with as few and as many in common as can be
    found = alignment.bounds(0.8, 0.6)
    np.testing.assert_allclose(found.observed, (0.4, 0.8), atol=1e-12)
    np.testing.assert_allclose(found.error, (-0.363636, 0.545455), atol=1e-6)
    for other, end in ((apart, 0), (together, 1)):
        assert observed_consistency(one, other) == pytest.approx(found.observed[end], abs=1e-12)
        assert error_consistency(one, other) == pytest.approx(found.error[end], abs=1e-12)
    # Who are wrong more often than right must be wrong together: 0.2 and 0.4 leave room for as much as 0.8 and 0.6.
    np.testing.assert_allclose(alignment.bounds(0.2, 0.4), found, atol=1e-12)
    assert alignment.bounds(1.0, 1.0) == ((1.0, 1.0), (1.0, 1.0))
    assert alignment.bounds(0.5, 0.5).error == (-1.0, 1.0)
    assert alignment.bounds(1.0, 0.0).error == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_error_consistency_e7_is_cohens_kappa_of_the_two_by_two_table(seed):
    one, two = draws(seed, 37, 0.6), draws(seed + 100, 37, 0.8)
    assert error_consistency(one, two) == pytest.approx(cohen(one, two), abs=1e-12)


# ----------------------------------------------------------------------------------------------------------- aggregates


def toy_sets() -> tuple[dict, dict]:
    """Which answers are right: of a network {set: {condition: bool}}, of people {set: {person: {condition: bool}}}.

    Sets, people and conditions come in unequal numbers, so that the order of the means matters.
    """
    sizes = {"one": {"a": 11, "b": 4, "c": 23}, "two": {"a": 9}}
    seen = {"one": {"subject-01": "abc", "subject-02": "a", "subject-03": "ac"}, "two": {"subject-01": "a"}}
    network = {s: {c: draws(i, n, 0.6) for i, (c, n) in enumerate(row.items())} for s, row in sizes.items()}
    people = {
        s: {h: {c: draws(10 + int(h[-1]) + ord(c), sizes[s][c], 0.7) for c in cs} for h, cs in row.items()}
        for s, row in seen.items()
    }
    return network, people


def toy_trials() -> tuple[Trials, Trials]:
    network, people = toy_sets()
    start = {"a": 0, "b": 100, "c": 200}

    def trials(name, row, subject):
        return [answers(v, subject, condition=c, dataset=name, first=start[c]) for c, v in row.items()]

    model = joined(*(part for name, row in network.items() for part in trials(name, row, "dense")))
    humans = joined(
        *(part for name, rows in people.items() for who, row in rows.items() for part in trials(name, row, who))
    )
    return model, humans


def test_compare_e8_takes_means_over_conditions_then_people_then_sets():
    network, people = toy_sets()
    measures = [lambda a, b: (a.mean() - b.mean()) ** 2, lambda a, b: np.mean(a == b), cohen]
    expected = [
        np.mean(
            [
                np.mean([np.mean([measure(network[s][c], row[c]) for c in row]) for row in people[s].values()])
                for s in people
            ]
        )
        for measure in measures
    ]
    ood = np.mean([np.concatenate(list(row.values())).mean() for row in network.values()])
    got = alignment.compare(*toy_trials())
    np.testing.assert_allclose(got[:4], [ood, *expected], atol=1e-12)
    assert got.n == 11 + 4 + 23 + 9
    one = alignment.compare(*toy_trials(), dataset="one")
    assert one.n == 38
    assert one.error_consistency != pytest.approx(got.error_consistency, abs=1e-3)


def test_human_human_compares_people_over_what_both_saw():
    people = toy_sets()[1]["one"]
    pairs = [("subject-01", "subject-02", "a"), ("subject-01", "subject-03", "ac"), ("subject-02", "subject-03", "a")]
    expected = np.mean([np.mean([cohen(people[x][c], people[y][c]) for c in cs]) for x, y, cs in pairs])
    got = alignment.human_human(toy_trials()[1], dataset="one")
    assert got.error_consistency == pytest.approx(expected, abs=1e-12)
    right = np.concatenate([hits for row in people.values() for hits in row.values()])
    assert (got.ood_accuracy, got.n) == (pytest.approx(right.mean(), abs=1e-12), right.size)


def test_compare_e9_does_not_depend_on_the_order_of_the_rows():
    model, humans = toy_trials()
    shuffled = [trials.where(RNG(3).permutation(len(trials))) for trials in (model, humans)]
    assert alignment.compare(*shuffled) == alignment.compare(model, humans)
    assert alignment.human_human(shuffled[1], dataset="one") == alignment.human_human(humans, dataset="one")


def test_compare_knows_conditions_however_spelt_and_leaves_controls_out():
    correct = {"0.00": draws(0, 10), "0.10": draws(1, 10), "0.90": draws(2, 10)}
    people = {"0": draws(3, 10), "0.1": draws(4, 10), "0.9": draws(5, 10)}
    model, human = (
        joined(
            *(answers(v, who, condition=c, dataset="uniform-noise", first=int(float(c) * 100)) for c, v in row.items())
        )
        for who, row in (("dense", correct), ("subject-01", people))
    )
    got = alignment.compare(model, human)
    assert got == Alignment(
        correct["0.10"].mean(),
        pytest.approx((correct["0.10"].mean() - people["0.1"].mean()) ** 2, abs=1e-15),
        np.mean(correct["0.10"] == people["0.1"]),
        pytest.approx(cohen(correct["0.10"], people["0.1"]), abs=1e-12),
        10,
    )
    assert alignment.compare(model, human, exclude={}).n == 30
    with pytest.raises(ValueError, match=r"only one side has \['0\.1'\].*exclude=\{'uniform-noise': \[\.\.\.\]\}"):
        alignment.compare(model, human.where(human.condition != "0.1"), exclude={})


def test_compare_takes_sets_without_conditions_as_one_condition():
    correct, person = draws(0, 12), draws(1, 12)
    model = answers(correct, "dense", condition="NaN", dataset="edge")
    human = answers(person, "subject-01", condition="0", dataset="edge")
    assert alignment.compare(model, human).error_consistency == pytest.approx(cohen(correct, person), abs=1e-12)


def test_alignment_excludes_conditions_that_are_levels_of_our_distortions():
    for name in set(DISTORTIONS) & set(alignment.EXCLUDED):
        assert set(alignment.EXCLUDED[name]) < set(DISTORTIONS[name])
    assert set(DISTORTIONS) < set(alignment.EXCLUDED)
    assert len(set(alignment.EXCLUDED) | set(alignment.WITHOUT_CONDITIONS)) == 17


# ----------------------------------------------------------------------------------------------------- the human trials


@pytest.mark.skipif(not HUMAN.is_dir(), reason="the trials of people are not in ../shared/data")
@pytest.mark.parametrize(("name", "kappa"), [("cue-conflict", 0.331), ("edge", 0.318), ("silhouette", 0.476)])
def test_human_human_e10_agrees_as_is_known(name, kappa, tmp_path):
    trials = alignment.read_trials(HUMAN / name)
    assert trials.datasets == (name,)
    assert trials.humans().subjects == tuple(f"subject-{i:02d}" for i in range(1, 11))
    assert round(alignment.human_human(trials).error_consistency, 3) == kappa
    # A network that answers as the first person does is that person.
    one = trials.of("subject-01")
    copy = make_trials("dense", one.object_response, one.category, one.image, condition="NaN", dataset=name)
    assert alignment.compare(copy, one)[1:4] == (0.0, 1.0, 1.0)
    for file in alignment.write_trials(trials, tmp_path):
        assert file.read_bytes() == (HUMAN / name / file.name).read_bytes()


@pytest.mark.skipif(not HUMAN.is_dir(), reason="the trials of people are not in ../shared/data")
def test_shape_bias_is_that_known_of_people():
    found = alignment.shape_bias(alignment.read_trials(HUMAN / "cue-conflict"))
    assert round(found.bias, 2) == 0.96
    assert found.n == 12_000


# ----------------------------------------------------------------------------------------------------- sixteen classes


def test_decide_s1_puts_every_class_into_its_own_category():
    groups = alignment.sixteen_classes()
    sizes = [1, 4, 2, 49, 5, 7, 3, 6, 4, 3, 109, 2, 2, 1, 1, 8]
    assert [len(classes) for classes in groups.values()] == sizes
    assert list(groups) == sorted(groups)
    members = [(index, name) for name, classes in groups.items() for index in classes]
    assert len({index for index, _ in members}) == len(members) == 207
    decided = alignment.decide(np.eye(1000)[[index for index, _ in members]])
    assert decided.tolist() == [name for _, name in members]


def test_decide_s2_does_not_let_many_dogs_outweigh_a_knife():
    groups = alignment.sixteen_classes()
    outputs = np.zeros((1, 1000))
    outputs[0, list(groups["dog"])] = 0.9 / 109
    outputs[0, list(groups["knife"])] = 0.05
    outputs[0, 0] = 0.05  # a tench is in no category
    assert alignment.decide(outputs).tolist() == ["knife"]
    assert alignment.decide(outputs, how="sum").tolist() == ["dog"]


@pytest.mark.parametrize("how", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_decide_of_equal_categories_takes_the_first_whatever_rounding_says(how, dtype):
    """A dead network gives 1000 classes the same, and sums of 1 to 109 of them round differently."""
    same = np.full((1, 1000), 1 / 1000, dtype)
    listed = alignment.sixteen_classes()
    groups = {name: listed[name] for name in sorted(listed, key=lambda name: len(listed[name]))}
    if how == "sum":
        groups = {name: range(10 * i, 10 * i + 7) for i, name in enumerate(listed)}
    for shift in range(len(groups)):
        names = [*groups][shift:] + [*groups][:shift]
        assert alignment.decide(same, groups={name: tuple(groups[name]) for name in names}, how=how) == [names[0]]


def test_decide_tells_apart_what_differs_by_more_than_rounding():
    rows = np.full((2, 4), 0.25)
    rows[0, 3] += 1e-9
    rows[1, 3] += 1e-14
    assert alignment.decide(rows, groups={"dog": (0, 1, 2), "cat": (3,)}).tolist() == ["cat", "dog"]


def test_cues_s3_are_read_from_the_name():
    assert alignment.cues("XXX_dog10-bird2.png") == ("dog", "bird")
    assert alignment.cues("0001_s5n_s10_0_airplane_00_airplane8-bicycle3.png") == ("airplane", "bicycle")
    for name in ("dog10.png", "0021_oven-0021-sketch-27.png", "dog10-bird2-cat1.png"):
        with pytest.raises(ValueError, match=rf"imagename: expected shape and texture.*{name}.*shape_bias_of"):
            alignment.cues(name)


def test_shape_bias_counts_conflicts_only():
    names = ["dog1-cat1.png", "dog2-cat2.png", "dog3-cat3.png", "dog4-dog1.png", "cat1-dog1.png"]
    given, right = ["dog", "cat", "na", "dog", "cat"], ["dog", "dog", "dog", "dog", "cat"]
    found = alignment.shape_bias(make_trials("dense", given, right, names))
    assert found == alignment.ShapeBias(2 / 3, 0.5, 0.25, 4)
    shapes, textures = zip(*map(alignment.cues, names), strict=True)
    assert alignment.shape_bias_of(given, shapes, textures) == found
    assert np.isnan(alignment.shape_bias_of([2, 2], [0, 1], [1, 0]).bias)


# --------------------------------------------------------------------------------------------------------------- files


def test_read_trials_keeps_strings_and_finds_files_in_folders(tmp_path):
    model = make_trials(
        "net, dense",
        ["dog", "na", "NaN"],
        ["dog", "cat", "car"],
        ["a_n01_7.png", "cat1.png", "car.png"],
        condition=["0.90", "true", "NaN"],
        dataset="false-colour",
    )
    person = answers(draws(0, 4), "subject-01", dataset="edge")
    files = alignment.write_trials(joined(model, person), tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "edge/edge_subject-01_session_1.csv",
        "false-colour/false-colour_net--dense_session_1.csv",
    ]
    back = alignment.read_trials(tmp_path).where([4, 5, 6, 0, 1, 2, 3])
    for name in vars(model):
        np.testing.assert_array_equal(getattr(back, name), getattr(joined(model, person), name))
    assert back.correct[:3].tolist() == [True, False, False]
    assert not make_trials("dense", ["na"], ["na"], ["1.png"]).correct.any()
    assert alignment.write_trials(person, tmp_path / "new" / "all.csv") == [tmp_path / "new" / "all.csv"]
    assert alignment.read_trials(tmp_path / "new" / "all.csv").datasets == ("new",)
    assert alignment.read_trials(tmp_path / "new", dataset="edge").datasets == ("edge",)


HEADER = "subj,Session,trial,rt,object_response,category,condition,imagename"
ROW = "subject-01,1,1,0.8,dog,dog,c10,0001_cop_s01_c10_dog_10_n02107312_7422.png"


def test_read_trials_takes_files_of_others(tmp_path):
    file = tmp_path / "contrast_subject-01_session_1.csv"
    lines = [HEADER + ",note", ROW + ',"a, b"', "", ROW.replace(",1,1,0.8", ",1,2,NaN").replace("c10,", "c05,") + ","]
    file.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    (tmp_path / "._contrast_subject-01_session_1.csv").write_bytes(b"\xff")
    got = alignment.read_trials(tmp_path)
    assert (got.datasets, got.condition.tolist(), got.trial.tolist()) == (("contrast",), ["c10", "c05"], ["1", "2"])
    assert got.image.tolist() == ["n02107312_7422.png"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: expected the columns subj,session.*each once, but subj, session.* are missing"),
        (HEADER.replace("category", "kind"), r"line 1: .*but category is missing or there twice: subj,session"),
        (f"{HEADER}\n{ROW}\n{ROW},x\n", r"line 3: expected 8 fields.*but got 9: 'subject-01.*quotation marks"),
        (f"{HEADER}\n{ROW[:30]}\n", r"line 2: expected 8 fields.*but got 7"),
        (f"{HEADER}\n{ROW.replace(',1,1,', ',1,one,')}\n", r"line 2: trial: expected a whole number, but got 'one'"),
        (f"{HEADER}\n{ROW.replace(',1,1,', ',s1,1,')}\n", r"line 2: session: expected a whole number, but got 's1'"),
        (f"{HEADER}\n\n{ROW.replace('0.8', 'fast')}\n", r"line 3: rt: expected seconds, or NaN.*but got 'fast'"),
        (f"{HEADER}\n{ROW.replace(',dog,dog,', ',dog,na,')}\n", r"line 2: category: expected a name, but got 'na'"),
        (f'{HEADER}\n"{ROW}\n', r"expected a CSV file in UTF-8, but it does not parse"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16"), r"expected a CSV file in UTF-8, but it does not parse"),
    ],
)
def test_read_trials_names_rows_that_do_not_parse_by_file_and_line(text, message, tmp_path):
    file = tmp_path / "contrast_subject-01_session_1.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"contrast_subject-01_session_1\.csv'.*({message})"):
        alignment.read_trials(tmp_path)


def test_read_trials_reads_nothing_hidden(tmp_path):
    alignment.write_trials(alignment.make_trials("dense", ["dog"], ["dog"], ["dog1.png"], dataset="toy"), tmp_path)
    (file,) = tmp_path.rglob("*.csv")
    for name in (".ipynb_checkpoints/copy.csv", "__MACOSX/._copy.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(file.read_bytes())
    assert len(alignment.read_trials(tmp_path)) == 1


def test_trials_name_missing_files_and_names(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a CSV file, or a folder.*'.*nothing' does not exist"):
        alignment.read_trials(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"path: expected a CSV file, or a folder.*has none"):
        alignment.read_trials(tmp_path)
    person = answers(draws(0, 4), "a_b", dataset="edge")
    with pytest.raises(ValueError, match=r"trials: expected names that differ.*'edge_a-b_session_1\.csv'\. Rename"):
        alignment.write_trials(joined(person, answers(draws(0, 4), "a-b", dataset="edge")), tmp_path)
    with pytest.raises(ValueError, match=r"trials: expected named data sets"):
        alignment.write_trials(answers(draws(0, 4), "a", dataset=""), tmp_path)
    with pytest.raises(ValueError, match=r"subject: unknown value 'a_c'\. Did you mean 'a_b'"):
        person.of("a_c")
    with pytest.raises(ValueError, match=r"category: expected strings \[n\] = \(2,\) as in the other columns.*\(1,\)"):
        make_trials("dense", ["dog", "cat"], ["dog"], ["1.png", "2.png"])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- simulated people


def test_simulated_observers_are_right_as_often_and_wrong_as_evenly_as_they_should():
    n, classes = 40_000, 5
    labels = np.arange(n) % classes
    probability = np.where(np.arange(n) < n // 2, 0.9, 0.3)
    made = observers.simulated(probability, labels, classes, observers=2, rho=0.5, seed=1)
    assert made.correct.shape == made.responses.shape == (2, n)
    np.testing.assert_array_equal(made.correct, made.responses == labels)
    for part, p in ((slice(n // 2), 0.9), (slice(n // 2, None), 0.3)):
        np.testing.assert_allclose(made.correct[:, part].mean(axis=1), p, atol=4 * np.sqrt(p * (1 - p) / (n / 2)))
    wrong = ((made.responses - labels) % classes)[~made.correct]
    np.testing.assert_allclose(np.bincount(wrong, minlength=classes)[1:] / wrong.size, 1 / 4, atol=0.012)
    expected = 0.5 + 0.5 * 0.09 / (0.6 * 0.4)
    assert observers.expected_consistency(probability, 0.5) == pytest.approx(expected, abs=1e-12)
    assert error_consistency(*made.correct) == pytest.approx(expected, abs=0.02)


def test_simulated_observer_depends_on_the_seed_and_on_no_other_observer():
    labels = np.arange(50) % 7
    made = [observers.simulated(0.5, labels, 7, observers=k, rho=0.4, seed=3).responses for k in (1, 4)]
    np.testing.assert_array_equal(made[0][0], made[1][0])
    assert not np.array_equal(made[1][0], made[1][1])
    keys = [jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(4)]
    drawn = [observers.simulated(0.5, labels, 7, observers=1, rho=0.4, seed=key).responses for key in keys]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    copied = observers.simulated(0.5, labels, 7, observers=3, rho=1.0, seed=3).responses
    np.testing.assert_array_equal(copied, np.tile(copied[0], (3, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": 1.5}, r"probability: expected numbers in \[0, 1\], but got 1\.5"),
        (
            {"probability": np.full(3, 0.5)},
            r"probability: expected one number, or one for each of the 2 labels.*\(3,\)",
        ),
        ({"rho": -0.1}, r"rho: expected numbers in \[0, 1\], but got -0\.1"),
        ({"rho": float("nan")}, r"rho: expected numbers in \[0, 1\], but got nan"),
        ({"labels": np.array([0, 4])}, r"labels: expected labels in \[0, 4\), but found 4"),
        ({"labels": np.zeros((2, 1), int)}, r"labels: expected one or more labels \[n\], but got the shape \(2, 1\)"),
        ({"probability": "half"}, r"probability: expected numbers in \[0, 1\], but got 'half'"),
        ({"classes": 1}, r"classes: expected 2 or more"),
        ({"classes": 2.5}, r"classes: expected a whole number of 1 or more, but got 2\.5"),
        ({"observers": 0}, r"observers: expected a whole number of 1 or more, but got 0"),
        ({"observers": 2.5}, r"observers: expected a whole number of 1 or more, but got 2\.5"),
        ({"seed": "a"}, r"seed: expected a whole number of 0 or more, or a JAX PRNG key, but got 'a'"),
        ({"seed": -1}, r"seed: expected a whole number of 0 or more, or a JAX PRNG key, but got -1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_simulated_refuses_observers_that_cannot_be(change, message):
    given = {"probability": 0.5, "labels": np.zeros(2, int), "classes": 4, "observers": 2, "rho": 0.5, "seed": 0}
    with pytest.raises(ValueError, match=message):
        observers.simulated(**(given | change))


# -------------------------------------------------------------------------------------------------------------- errors


SURE = np.array([[0.25, 0.75]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignment.decide(SURE, groups={"a": 0, "b": (1,)}), r"groups: expected the classes .* but 'a' has 0"),
        (lambda: alignment.compare("a", "b"), r"model: expected Trials, but got a str\. read_trials reads"),
        (lambda: alignment.compare(made(), "b"), r"humans: expected Trials, but got a str"),
        (lambda: alignment.human_human(["a"]), r"trials: expected Trials, but got a list"),
        (lambda: made(object_response="dog"), r"object_response: expected the answer to each image.* but got 'dog'"),
        (lambda: made(category=None), r"category: expected the right answer to each image.* but got None"),
        (lambda: made(imagename="a.png"), r"imagename: expected the name of each image.* but got 'a\.png'"),
        (lambda: made(condition=None), r"condition: expected a string for all trials, or one for each.* but got None"),
        (lambda: alignment.error_consistency(True, [True]), r"a: expected one or more answers \[n\]"),
        (lambda: alignment.observed_consistency([True], True), r"b: expected one or more answers \[n\]"),
        (lambda: alignment.accuracy(True), r"correct: expected one or more answers \[n\]"),
        (lambda: alignment.bounds("a", 0.5), r"p: expected an accuracy in \[0, 1\], but got 'a'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_alignment_names_what_is_of_another_kind_altogether(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def made(**change):
    columns = {"object_response": ["dog"], "category": ["dog"], "imagename": ["dog1.png"]}
    return alignment.make_trials("dense", **(columns | change))


@pytest.mark.parametrize(
    ("probabilities", "groups", "message"),
    [
        (SURE, None, r"groups: the sixteen categories.*but there are 2 outputs. Pass the classes"),
        (SURE, {"dog": (0,), "cat": ()}, r"groups: expected one or more classes in each category, but \['cat'\] is"),
        (SURE, {}, r"groups: expected one or more classes in each category, but the mapping is empty"),
        (SURE, {"dog": (0,), "cat": (2,)}, r"groups\['cat'\]: expected labels in \[0, 2\), but found 2"),
        (SURE, {"dog": (0,), "cat": (1, 0)}, r"groups: expected every class at most once, but class 0 occurs 2 times"),
        (2 * SURE, {"dog": (0,)}, r"probabilities: expected rows of 0 or more that sum to 1.*\[2, 2\].*softmax"),
        (SURE[0], {"dog": (0,)}, r"probabilities: expected \[n, c\].*got the shape \(2,\)"),
        (SURE * np.nan, {"dog": (0,)}, r"probabilities: expected finite numbers"),
    ],
)
def test_decide_needs_probabilities_and_classes_in_every_category(probabilities, groups, message):
    with pytest.raises(ValueError, match=message):
        alignment.decide(probabilities, groups=groups)


def test_compare_names_trials_that_do_not_fit_each_other():
    network, person = answers(draws(0, 6), "dense"), answers(draws(1, 6), "subject-01")
    with pytest.raises(ValueError, match=r"model: expected the trials of one network.*\['dense', 'subject-01'\].*of\("):
        alignment.compare(joined(network, person), person)
    with pytest.raises(
        ValueError, match=r"dataset: expected one of both sides, but humans has no trials of \['edge'\]"
    ):
        alignment.compare(answers(draws(0, 6), "dense", dataset="edge"), person)
    with pytest.raises(ValueError, match=r"same images in the condition '0\.0' of 'toy'.*'dog5\.png' \(1 such of 6"):
        alignment.compare(network, person.where(np.arange(5)))
    with pytest.raises(ValueError, match=r"humans: .*'subject-01' answered 'dog0\.png' more than once.*read twice\?"):
        alignment.compare(network, joined(person, person))
    other = make_trials(
        "subject-01", person.object_response, ["cat"] * 6, person.imagename, condition="0", dataset="toy"
    )
    with pytest.raises(ValueError, match=r"one right answer for an image, but 'dog0\.png' of 'toy' is 'dog' and 'cat'"):
        alignment.compare(network, other)
    with pytest.raises(ValueError, match=r"trials: expected two or more people, .* but got \['subject-01'\]"):
        alignment.human_human(person)
    with pytest.raises(ValueError, match=r"outside of the excluded conditions \['0\.0'\], but there are none"):
        alignment.compare(network, person, exclude={"toy": ["0"]})
    with pytest.raises(ValueError, match=r"a condition of 'toy' that both saw, but got \['0\.0'\] and \['1\.0'\]"):
        alignment.human_human(joined(person, answers(draws(1, 6), "subject-02", condition="1")))
    with pytest.raises(ValueError, match=r"trials: expected two or more people, .* but got \[\]"):
        alignment.human_human(network.humans())


def test_human_human_does_not_count_networks_beside_people():
    network, humans = toy_trials()
    assert alignment.human_human(joined(network, humans), dataset="one") == alignment.human_human(humans, dataset="one")


def test_read_trials_refuses_files_without_rows_and_names_that_would_mix_sets(tmp_path):
    _network, humans = toy_trials()
    alignment.write_trials(humans, tmp_path)
    with pytest.raises(ValueError, match=r"dataset: one name for the files of \["):
        alignment.read_trials(tmp_path, dataset="one")
    (tmp_path / "one_subject-99_session_1.csv").write_text(
        "subj,session,trial,rt,object_response,category,condition,imagename" + "\n"
    )
    with pytest.raises(ValueError, match=r"subject-99_session_1.csv'?: expected"):
        alignment.read_trials(tmp_path)


def test_alignment_names_hits_and_cues_that_do_not_fit():
    with pytest.raises(TypeError, match=r"a: expected bool \[n\], which answers are right, but got int64"):
        error_consistency(np.array([1, 0]), np.array([True, False]))
    with pytest.raises(ValueError, match=r"a, b: expected answers to the same images, but got \(2,\) and \(3,\)"):
        observed_consistency(draws(0, 2), draws(0, 3))
    with pytest.raises(ValueError, match=r"correct: expected one or more answers \[n\], but got the shape \(0,\)"):
        alignment.accuracy(np.zeros(0, bool))
    with pytest.raises(ValueError, match=r"q: expected an accuracy in \[0, 1\], but got 1\.1"):
        alignment.bounds(0.5, 1.1)
    with pytest.raises(
        ValueError, match=r"decisions, shapes, textures: expected one length n.*\(2,\), \(2,\) and \(1,\)"
    ):
        alignment.shape_bias_of([0, 1], [0, 1], [1])
    with pytest.raises(ValueError, match=r"images in which they differ, but in all 2 they are the same"):
        alignment.shape_bias_of([0, 1], [0, 1], [0, 1])
    with pytest.raises(ValueError, match=r"the shape as the right answer, but 'dog1-cat1\.png' has the category 'cat'"):
        alignment.shape_bias(make_trials("dense", ["dog"], ["cat"], ["dog1-cat1.png"]))
