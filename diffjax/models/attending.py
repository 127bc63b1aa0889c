"""What a network attends to: the rows of its attention, read out of an evaluation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffjax import host
from diffjax.models import layers


def attention_rows(function: Callable, *args: Any) -> dict[str, np.ndarray]:
    """Computes what each attention multiplies its values by, softmax(q k' / sqrt(D)) times any factors, in one call.

    `function(*args)` is evaluated operation by operation, outside `jit`: for a study, of a few examples at a time.

    Args:
        function: evaluates a network once: its `apply` (params, x, c, given), or a denoiser (x_t, t).
        args: arrays.

    Returns:
        The layer's path, such as "block_0", in the order of evaluation -> (..., heads, T, T), queries before keys.

    Raises:
        ValueError: for arguments that are traced; a function without an attention of `models.layers`, or with one that
            is evaluated twice, under vmap, in a scan over blocks (`dit.unstacked` undoes it) or recomputed.
    """
    rows: dict[str, Any] = {}
    again: list[str] = []  # layers that are evaluated more than once, or not on numbers

    def look(call: Any, given: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, layers.Attend) and context.method_name == "__call__":
            q, k, _, *rest = given
            one = jnp.eye(k.shape[-3], dtype=layers.fine(q.dtype))[:, None]  # values by which the output is the rows
            values = jnp.broadcast_to(one, (*k.shape[:-1], k.shape[-3]))
            found = jnp.swapaxes(layers.attention(q, k, values, *rest), -3, -2)
            name = "/".join(context.module.path[:-1])
            again.extend([name] if name in rows or not host.concrete(found) else [])
            rows[name] = found
        return call(*given, **options)

    if not host.concrete(args):
        raise ValueError("attention_rows looks at numbers, and these are traced: call it outside jit and vmap.")
    with jax.disable_jit(), nn.intercept_methods(look):
        function(*args)
    if not rows or again:
        why = f"{again[0]} is evaluated twice, in a scan, under vmap or recomputed" if rows else "there is none"
        raise ValueError(f"The rows of attention cannot be read: {why}; build it with scan=False, remat=False.")
    return jax.device_get(rows)
