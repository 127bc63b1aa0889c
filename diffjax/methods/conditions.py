"""What is given, hidden for a share of the examples: the training that guidance without a classifier needs.

Guidance by one scale extrapolates from a network that is told nothing: all conditions of an example are hidden by one
draw (Ho & Salimans 2022, algorithm 1). Two scales also ask what is known of the first condition while the second is
hidden: each is hidden alone as well (Brooks et al. 2023, section 3.2.1: a twentieth all, a twentieth each alone).

A condition is hidden whole. Hiding words of a text one by one teaches something else: with probability p each, {red}
stands for the mixture of all texts with that word, weighted by (1 - p) p^(words beside it), and not for p(x | red).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.denoisers.scales import Hidden, Unhidden
from diffjax.types import Key


class Condition(NamedTuple):
    """Which of `given` may be hidden; Condition({}): nothing ever is.

    Attributes:
        none: name -> the value that stands for "none", for all entries or of their shape: the row after the last class,
            a learned empty text, NaN for a vector or an image (`models.text`). A network says its own: `Network.none`.
        share: of the training examples whose conditions are hidden, all at once.
        apart: of the training examples, for each condition, of which that one alone is hidden.
    """

    none: Mapping[str, Any]
    share: float = 0.0
    apart: float = 0.0

    def check(self, reads: tuple[str, ...] | None) -> None:
        """Raises a ValueError for shares outside [0, 1), or without a name to hide, or a name that nobody reads.

        Nor is `none` anything but a table, {"label": 8}, or a share anything but a number. One condition alone is not
        hidden apart from others.
        """
        number = lambda share: isinstance(share, int | float | np.number) and not isinstance(share, bool)
        if not isinstance(self.none, Mapping) or not number(self.share) or not number(self.apart):
            raise ValueError(
                f"Got Condition({self.none!r}, {self.share!r}), expected names with the values that stand for none, "
                "and a share: Condition({'label': 8}, share=0.1)."
            )
        if not 0 <= self.share < 1 or (self.share and not self.none):
            hidden = ", ".join(self.none) or "nothing"
            raise ValueError(f"Condition hides {hidden} for a share of {self.share}, expected [0, 1).")
        if self.apart and (len(self.none) < 2 or not 0 < self.apart * len(self.none) < 1 - self.share):
            raise ValueError(
                f"Condition hides {', '.join(self.none) or 'nothing'} apart, each for a share of {self.apart} beside "
                f"{self.share} for all: expected two conditions or more, whose shares leave examples that show all."
            )
        if unknown := [name for name in self.none if reads is not None and name not in reads]:
            raise ValueError(f"Condition hides {', '.join(unknown)}, but the network reads {', '.join(reads or ())}.")

    def hidden(self, given: dict) -> dict:
        """Puts "none" in the place of what may be hidden."""
        return {**given, **self._none(given)}

    def _none(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What stands for none of each that is given and may be hidden, of its shape."""
        of = lambda none, own: none if jnp.shape(none) == jnp.shape(own) else jnp.broadcast_to(none, jnp.shape(own))
        return {name: of(none, given[name]) for name, none in self.none.items() if name in given}

    def unseen(self, given: dict) -> Mapping[str, Any]:
        """Gives what guidance extrapolates from: `hidden`; where training hides nothing, what refuses a look."""
        none = self._none(given) if self.share else {}
        return Hidden(given, none, apart=bool(self.apart)) if none else Unhidden()

    def drop(self, key: Key, given: dict) -> dict:
        """Hides the conditions of a share of the examples, all conditions of one at once; of others one alone."""
        none = self._none(given)
        if not none or not (self.share or self.apart):
            return given
        hide = jax.random.bernoulli(key, self.share)
        if not self.apart:
            return given | {name: jnp.where(hide, value, given[name]) for name, value in none.items()}
        # Where not all are hidden, condition i is where u falls into the i-th interval of length apart / (1 - share).
        u = jax.random.uniform(jax.random.fold_in(key, 1)) * (1 - self.share) / self.apart
        # (text.6)
        alone = {name: hide | (jnp.floor(u) == i) for i, name in enumerate(self.none)}
        return given | {name: jnp.where(alone[name], value, given[name]) for name, value in none.items()}
