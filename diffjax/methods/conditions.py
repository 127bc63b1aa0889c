"""What is given, hidden for a share of the examples: the training that guidance without a classifier needs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffjax.types import Key


class Condition(NamedTuple):
    """Which of `given` may be hidden; Condition({}): nothing ever is.

    Attributes:
        none: name -> the value that stands for "none": the row after the last class, a learned empty text.
        share: of the training examples whose conditions are hidden (Ho & Salimans 2022, algorithm 1).
    """

    none: dict[str, Any]
    share: float = 0.0

    def check(self, reads: tuple[str, ...] | None) -> None:
        """Raises a ValueError for a share outside [0, 1), or without a name to hide, or a name that nobody reads."""
        if not 0 <= self.share < 1 or (self.share and not self.none):
            raise ValueError(f"Condition hides {self.none or 'nothing'} for a share of {self.share}, expected [0, 1).")
        if unknown := [name for name in self.none if reads is not None and name not in reads]:
            raise ValueError(f"Condition hides {', '.join(unknown)}, but the network reads {', '.join(reads or ())}.")

    def hidden(self, given: dict) -> dict:
        """Puts "none" in the place of what may be hidden."""
        return given | {name: value for name, value in self.none.items() if name in given}

    def drop(self, key: Key, given: dict) -> dict:
        """Hides the conditions of a share of the examples, all conditions of one at once."""
        if self.share == 0 or not set(self.none) & set(given):
            return given
        hide = jax.random.bernoulli(key, self.share)
        return jax.tree.map(lambda none, own: jnp.where(hide, none, own), self.hidden(given), given)
