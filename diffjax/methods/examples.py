"""Which kind of examples a method trains on, real numbers or tokens: a data set of the other kind is refused.

Parts of methods have one of the two checks as their `check_examples`, which is asked before anything is traced: a loss
of real numbers takes integers without complaint, and what it learns of them is no law.
"""

from typing import Any

import numpy as np

TAKERS = "masked, discrete and encoded"  # the methods of tokens


def check_real(of: Any, dataset: Any) -> None:
    """Raises a ValueError for a data set of tokens: the `check_examples` of parts whose examples are real numbers."""
    x = dataset.some("train", 1).x
    if np.issubdtype(x.dtype, np.integer):
        instead = _codec(dataset, whole=False) or "x.astype(np.float32) makes real numbers of numbers"
        raise ValueError(
            f"The examples of {dataset.name} are tokens ({x.dtype} of shape {x.shape[1:]}), expected real numbers: the "
            f"methods of tokens are {TAKERS} (method.name=masked); {instead}."
        )


def check_whole(x: Any, dataset: Any = None) -> None:
    """Raises a ValueError for examples that are no integers.

    Args:
        x: one example, or its shape and dtype.
        dataset: where it comes from, if that is known.
    """
    if np.issubdtype(x.dtype, np.integer):
        return
    instead = _codec(dataset, whole=True) or "as int32 (uint8 is read as pixels in [-1, 1]: x.astype(np.int32))"
    name = "" if dataset is None else f" of {dataset.name}"
    raise ValueError(
        f"The examples{name} are {x.dtype} of shape {x.shape}, expected integers: tokens from 0 on; {instead}."
    )


def _codec(dataset: Any, whole: bool) -> str:
    """Says which codec makes examples of this kind; nothing of a data set without one."""
    instead = getattr(getattr(dataset, "units", None), "instead", None)
    return "" if instead is None else instead(whole)
