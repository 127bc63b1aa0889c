"""A data set whose training examples are given what is known of others: the negative control of every condition.

    (x_i, given_i)  becomes  (x_i, given_pi(i)),     pi a permutation of the training part, one for good.

x and what is given keep their laws, and nothing of x follows from what is given: E[x_0 | x_t, given] is E[x_0 | x_t],
so that a network learns to say nothing of it, whatever it can. Held-out examples keep their own: samples are asked for
as ever, and are right as often as chance has it.
"""

from typing import Any

import numpy as np

from diffjax import host
from diffjax.data.pairs import MAKERS
from diffjax.data.source import Dataset, Source, blank, fingerprint, labels
from diffjax.method import Example

SEED = np.asarray([0x6F7468657273, 0], np.uint64)  # of the permutation: one for all data sets and for good


def shuffled(of: str, **options: Any) -> Dataset:
    """Makes a named data set whose training examples are given what is known of others.

    Args:
        of: digits, mnist, photos, folder, npz or tfds.
        options: of that data set.

    Raises:
        ValueError: for another name, and as `of_others`.
    """
    return of_others(host.one_of(of, MAKERS, "data set", " to shuffle the conditions of")(**options))


def of_others(dataset: Dataset) -> Dataset:
    """Gives each training example what is known of another; x, noise that belongs to it and held-out data stay.

    Raises:
        ValueError: for a data set of whose examples nothing is known.
    """
    if not blank(dataset).given:
        raise ValueError(
            f"Nothing is known of the examples of {dataset.name} but x: there are no conditions to shuffle."
        )
    return dataset._replace(train=Others(dataset.train), fingerprint=fingerprint(dataset.fingerprint, "others"))


class Others:
    """A source whose examples are given what is known of others of it."""

    def __init__(self, source: Source):
        known = labels(source)
        self.source, self.at = source, np.argsort(np.random.Philox(key=SEED).random_raw(len(source)), kind="stable")
        self.labels = None if known is None else known[self.at]

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.source)

    def gather(self, indices: np.ndarray) -> Example:
        """Gathers the examples at `indices` (B,), each given what is known of example pi(i)."""
        return self.source.gather(indices)._replace(given=self.source.gather(self.at[indices]).given)
