"""What rounds of compensation leave behind: a mask, weights, and how these were moved."""

from dataclasses import dataclass

from jaxprune.types import Mask, Params


@dataclass(frozen=True)
class Attempt:
    """One try at moving the kept weights.

    Attributes:
      setting: what it was tried at: the relative damping that was accepted (of Adam: the learning rate); the last that
        was tried, where none was.
      steps: how many steps the accepted point took; 0 where none was accepted, and the weights stayed.
      length: the share of that point that was gone; below 1 where only a part of it helped.
      before: the objective on the images held out.
      after: the same afterwards.
      gradients: what it took, in gradients of all images.
    """

    setting: float
    steps: int
    length: float
    before: float
    after: float
    gradients: float

    @property
    def accepted(self) -> bool:
        """Whether the weights moved."""
        return self.steps > 0


@dataclass(frozen=True)
class Compensated:
    """What a round leaves.

    Attributes:
      number: of the round, from 0.
      sparsity: that the schedule asked for.
      mask: nested in those before.
      params: pruned weights are zero.
      attempts: how the kept ones were moved.
      earlier: the same of the rounds before.
    """

    number: int
    sparsity: float
    mask: Mask
    params: Params
    attempts: tuple[Attempt, ...]
    earlier: tuple[tuple[Attempt, ...], ...] = ()

    @property
    def gradients(self) -> float:
        """What moving the weights took, in gradients; scoring is not counted."""
        return sum(attempt.gradients for attempt in self.attempts)

    @property
    def budgets(self) -> tuple[float, ...]:
        """What moving the weights took in every round up to this."""
        return tuple(sum(attempt.gradients for attempt in each) for each in (*self.earlier, self.attempts))

    def __str__(self) -> str:
        """Says in a line what happened."""
        first, last = self.attempts[0].before, self.attempts[-1].after
        moved = sum(attempt.accepted for attempt in self.attempts)
        return (
            f"round {self.number}: {self.sparsity:.1%} pruned; on the images held out the objective went from "
            f"{first:.4g} to {last:.4g} in {moved} of {len(self.attempts)} attempts ({self.gradients:.0f} gradients)"
        )
