"""What a traced function costs: its operations, and what its way back keeps. Nothing is compiled or computed.

A loop counts as often as it runs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

# Data movement, integer bits and comparisons: no floating-point operation.
_MOVES = """and argsort bitcast_convert_type broadcast_in_dim concatenate convert_element_type copy dynamic_slice
dynamic_update_slice eq expand_dims gather ge gt iota le lt ne not or pad random_bits random_fold_in random_seed
random_split random_unwrap random_wrap reshape rev select_n shift_left shift_right_logical slice split squeeze
stop_gradient transpose xor"""
_FREE = frozenset(_MOVES.split())


def flops(function: Callable, *args: Any) -> float:
    """Counts floating-point operations of one call: 2 per multiply-add of products and convolutions, 1 per entry else.

    XLA's own count visits the body of a scan once, whatever its length; this one multiplies. XLA leaves out products
    with the zeros around an image, a fifth of a U-Net's at 8 x 8; here they count, as in papers, which often print
    multiply-adds, half as many (DiT-XL/2 of 32 x 32: 118.6 G).

    Args:
        function: of arrays.
        args: arrays, or `jax.ShapeDtypeStruct`s in their place.

    Returns:
        The number; nan where it depends on the data, in a while loop.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def residual_bytes(function: Callable, params: Any) -> int:
    """Counts the bytes that are kept between a function and its way back, by the shapes of `jax.vjp`.

    Parameters that the way back multiplies by count too; of two batches, the difference is of what their examples keep.
    XLA may keep less: it computes some of them again.

    Args:
        function: of the parameters whose gradient is taken; others are closed over.
        params: arrays, or `jax.ShapeDtypeStruct`s in their place.
    """
    kept = jax.eval_shape(lambda params: jax.tree.leaves(jax.vjp(function, params)[1]), params)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)


def _count(jaxpr: Any) -> float:
    return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn: Any) -> float:
    name = eqn.primitive.name
    inner = [_count(sub) for sub in _sub_jaxprs(eqn)]
    if inner:
        times = {"scan": eqn.params.get("length", 1), "while": math.nan}.get(name, 1)
        return max(inner) if name == "cond" else sum(inner) * times
    if name in _FREE:
        return 0.0
    out = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    if name == "dot_general":
        (contract, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(eqn.invars[0].aval.shape[d] for d in contract)
    if name == "conv_general_dilated":
        kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(kernel) / kernel[numbers.rhs_spec[0]]
    if name.startswith(("reduce_", "cum", "arg")):
        return float(math.prod(eqn.invars[0].aval.shape))
    return float(out) if jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating) else 0.0


def _sub_jaxprs(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, jax.extend.core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, jax.extend.core.Jaxpr):
                yield item
