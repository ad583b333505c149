"""The sparsity of every round of iterative pruning, as a tuple; the last entry is the target."""

from jaxprune import check


def one_shot(sparsity: float) -> tuple[float, ...]:
    """Prunes once.

    >>> one_shot(0.9)
    (0.9,)
    """
    return (check.sparsity(sparsity),)


def exponential(sparsity: float, rounds: int) -> tuple[float, ...]:
    """Keeps the same share of what is left in every round: after round r of R, ``1 - (1 - sparsity)^(r / R)``.

    Source: Tanaka et al. (2020), arXiv 2006.05467, where it keeps SynFlow from removing a whole layer.

    >>> [round(value, 3) for value in exponential(0.9, 3)]
    [0.536, 0.785, 0.9]
    """
    final = check.sparsity(sparsity)
    return (*(1 - (1 - final) ** (step / rounds) for step in range(1, _rounds(rounds))), final)


def cubic(sparsity: float, rounds: int, initial: float = 0.0) -> tuple[float, ...]:
    """Prunes fast while much is left: after round r of R, ``s + (s_0 - s)(1 - r / R)^3``.

    Source: Zhu and Gupta (2017), arXiv 1710.01878.

    >>> [round(value, 3) for value in cubic(0.8, 4)]
    [0.463, 0.7, 0.788, 0.8]
    """
    final, start = check.sparsity(sparsity), check.sparsity(initial, "initial")
    if start > final:
        raise ValueError(f"initial: expected at most the final sparsity {final}, but got {start}. Masks only shrink.")
    return (*(final + (start - final) * (1 - step / rounds) ** 3 for step in range(1, _rounds(rounds))), final)


def ladder(rungs: int, share: float = 0.2) -> tuple[float, ...]:
    """Prunes the same share of what is left from rung to rung: ``1 - (1 - share)^t`` for t = 0, ..., rungs - 1.

    The first rung is the dense network.

    Source: Cassano et al. (2025), arXiv 2507.01722, with a share of 0.2; before it Frankle and Carbin (2019), arXiv
    1803.03635.

    >>> [round(value, 3) for value in ladder(5)]
    [0.0, 0.2, 0.36, 0.488, 0.59]
    """
    kept = 1 - check.sparsity(share, "share")
    return tuple(1 - kept**rung for rung in range(_rounds(rungs, "rungs")))


def _rounds(rounds: int, name: str = "rounds") -> int:
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(
            f"{name}: expected an integer of 1 or more, but got {rounds!r}. One round is one-shot pruning."
        )
    return rounds
