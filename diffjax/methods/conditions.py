"""What is given, hidden for a share of the examples: the training that guidance without a classifier needs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.denoisers.guidance import Unhidden
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
        """Raises a ValueError for a share outside [0, 1), or without a name to hide, or a name that nobody reads.

        Nor is `none` anything but a table, {"label": 8}, or `share` anything but a number.
        """
        number = isinstance(self.share, int | float | np.number) and not isinstance(self.share, bool)
        if not isinstance(self.none, Mapping) or not number:
            raise ValueError(
                f"Got Condition({self.none!r}, {self.share!r}), expected names with the values that stand for none, "
                "and a share: Condition({'label': 8}, share=0.1)."
            )
        if not 0 <= self.share < 1 or (self.share and not self.none):
            raise ValueError(f"Condition hides {self.none or 'nothing'} for a share of {self.share}, expected [0, 1).")
        if unknown := [name for name in self.none if reads is not None and name not in reads]:
            raise ValueError(f"Condition hides {', '.join(unknown)}, but the network reads {', '.join(reads or ())}.")

    def hidden(self, given: dict) -> dict:
        """Puts "none" in the place of what may be hidden."""
        return given | {name: value for name, value in self.none.items() if name in given}

    def unseen(self, given: dict) -> Mapping[str, Any]:
        """Gives what guidance extrapolates from: `hidden`, or where nothing ever is what refuses to be looked at."""
        return self.hidden(given) if self.share and set(self.none) & set(given) else Unhidden()

    def drop(self, key: Key, given: dict) -> dict:
        """Hides the conditions of a share of the examples, all conditions of one at once."""
        if self.share == 0 or not set(self.none) & set(given):
            return given
        hide = jax.random.bernoulli(key, self.share)
        return jax.tree.map(lambda none, own: jnp.where(hide, none, own), self.hidden(given), given)
