"""What a data set is: two sources of examples, addressed by index."""

from typing import Any, NamedTuple, Protocol

import numpy as np

Batch = dict[str, np.ndarray]  # "x": (B, ...) float32, and "label": (B,) int32 where there are labels


class Source(Protocol):
    """Examples 0 .. len - 1, in one fixed order."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def gather(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` (B,)."""
        ...


class Arrays:
    """A source held in memory: uint8 images are kept as bytes and become [-1, 1] when gathered.

    Args:
        x: (N, ...) uint8 or floating.
        label: (N,) integers, or None.

    Raises:
        ValueError: for lengths that differ, another dtype, no example, or values that are not finite.
    """

    def __init__(self, x: Any, label: Any = None):
        x = np.asarray(x)
        if len(x) == 0:
            raise ValueError("The data set holds no example.")
        if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
            raise ValueError(f"The examples have dtype {x.dtype}, expected uint8 (0 .. 255) or floating (as they are).")
        if x.dtype != np.uint8 and not np.all(np.isfinite(x)):
            raise ValueError(f"Example {np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))[0]} is not finite.")
        if label is not None and len(label) != len(x):
            raise ValueError(f"Got {len(x)} examples and {len(label)} labels.")
        self.x = x if x.dtype == np.uint8 else x.astype(np.float32)
        self.label = None if label is None else np.asarray(label, np.int32)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.x)

    def gather(self, indices: np.ndarray) -> Batch:
        """The examples at `indices`, in one vectorised read."""
        x = self.x[indices]
        batch = {"x": x.astype(np.float32) / 127.5 - 1 if x.dtype == np.uint8 else x}
        return batch if self.label is None else {**batch, "label": self.label[indices]}


class Dataset(NamedTuple):
    """A data set, split for good.

    Attributes:
        name: of its kind.
        train, held_out: the two parts.
        shape: of one example.
        classes: number of labels, or None.
        levels: number of grey levels that pixels take, or None for continuous data.
        flip: mirror training images at random.
        fingerprint: of content, order and split; two runs with the same one saw the same data.
    """

    name: str
    train: Source
    held_out: Source
    shape: tuple[int, ...]
    classes: int | None
    levels: int | None
    fingerprint: str
    flip: bool = False
