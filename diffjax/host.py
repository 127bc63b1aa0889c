"""float64 on the host: coefficients are computed once, exactly, before anything is traced; checks of what was given."""

import contextlib
import difflib
import functools
import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

# jax.enable_x64 is the name from jax 0.8 on; before that the same context manager lived in jax.experimental.
if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:
    from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]


_PLANNING: ContextVar[bool] = ContextVar("planning", default=False)
_MADE_FOR: ContextVar[str | None] = ContextVar("made_for", default=None)
LENGTH = 66  # to which times are padded: those of a grid of 64 steps, both ends, and one more


def concrete(*trees: Any) -> bool:
    """Tells whether no leaf of any tree is being traced, so that its values can be looked at."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def need_object(got: Any, what: str = "an object of it") -> None:
    """Raises a ValueError for a class, schedules.VP, in the place of an object of it, schedules.VP()."""
    if isinstance(got, type):
        raise ValueError(f"Got the class {got.__name__}, expected {what}: {got.__name__}().")


def float64(function: Callable, *args: Any) -> Any:
    """Evaluates `function(*args)` on the CPU in float64; arguments and results are trees of NumPy arrays.

    Raises:
        ValueError: if an argument is being traced: plans are made outside `jit`, once, and reused inside; for a class.
    """
    for leaf in jax.tree.leaves(args):
        need_object(leaf)
    if not concrete(args):
        raise ValueError(
            "Got traced values where a plan is computed on the host; build samplers and grids outside jit."
        )
    widen = lambda leaf: np.asarray(leaf, np.float64) if jnp.issubdtype(jnp.result_type(leaf), np.floating) else leaf
    cpu = jax.local_devices(backend="cpu")[0]
    # Eager even inside somebody's trace: constants there are as concrete as anywhere.
    token = _PLANNING.set(True)
    try:
        with enable_x64(True), jax.default_device(cpu), jax.ensure_compile_time_eval():
            return jax.tree.map(np.asarray, function(*jax.tree.map(widen, args)))
    finally:
        _PLANNING.reset(token)


def run_once(function: Callable, *args: Any) -> Any:
    """Calls `function(*args)` in one compiled call that is soon compiled: for what runs a single time.

    Inside another program it is a part of that.
    """
    if not concrete(args):
        return function(*args)
    # At full optimisation the CPU compiler spends four times as long on random draws (11 s for 2.5).
    chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")  # by whoever runs this: it stays
    quick = jax.default_backend() == "cpu" and not chosen
    options: Any = {"xla_backend_optimization_level": 1} if quick else None
    return jax.jit(function).lower(*args).compile(compiler_options=options)(*args)


def planning() -> bool:
    """Tells whether `float64` is at work, where rules of derivatives of one's own (`jax.custom_jvp`) are not eager."""
    return _PLANNING.get()


def platform() -> str:
    """Tells the platform that programs are traced for: the default backend, or what `tracing_for` names."""
    return _MADE_FOR.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Has programs that choose by platform be traced for another one than this process runs on: "tpu"."""
    token = _MADE_FOR.set(platform)
    try:
        yield
    finally:
        _MADE_FOR.reset(token)


def along(function: Callable, first: Any, ts: Any, least: int = LENGTH) -> Any:
    """Evaluates `function(first, t)` at each of the times (n, ...), in float64 on the host; leaves are (n, ...).

    Times are padded to the length `least`, or to the next 2^k above it, before they are evaluated: one compile serves
    every n up to there, where the bare lengths would make new ones for each.

    Args:
        function: defined once, in a module; one that is made for the call would be compiled for the call.
        first: a pytree of numbers, such as a schedule: other numbers are no new compile.
    """
    ts = np.asarray(ts, np.float64)
    size = least if len(ts) <= least else 1 << (len(ts) - 1).bit_length()
    padded = np.concatenate([ts, np.broadcast_to(ts[-1] if len(ts) else 0.0, (size - len(ts), *ts.shape[1:]))])
    # As arrays: inside a trace of 32 bits, jit would take NumPy's for those of its width.
    found = float64(lambda *args: _for_each(function)(*jax.tree.map(jnp.asarray, args)), first, padded)
    return jax.tree.map(lambda leaf: leaf[: len(ts)], found)


@functools.cache
def _for_each(function: Callable) -> Callable:
    return jax.jit(jax.vmap(function, in_axes=(None, 0)))


def is_int(value: Any, least: int | None = None) -> bool:
    """Tells whether `value` is an integer, of Python or NumPy, and no bool; with `least`, whether it is that large."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and (least is None or bool(value >= least))


def check_int(
    name: str, value: Any, least: int = 1, error: type[Exception] = ValueError, most: int | None = None
) -> int:
    """Gives an integer as an int.

    Raises:
        ValueError: (or `error`) unless it is an integer, and no bool, of at least `least` and at most `most`.
    """
    if not is_int(value, least):
        raise error(f"{name} is {value!r}, expected an integer >= {least}.")
    if most is not None and value > most:
        raise error(f"{name} is {value}, expected at most {most}.")
    return int(value)


def check_order(value: Any, orders: tuple[int, ...], what: str = "The order") -> int:
    """Gives an order of a method as an int.

    Raises:
        ValueError: unless it is one of `orders`.
    """
    if not (is_int(value) and value in orders):
        raise ValueError(f"{what} is {value!r}, expected {' or '.join(', '.join(map(str, orders)).rsplit(', ', 1))}.")
    return int(value)


def check_positive(name: str, value: Any, note: str = "", error: type[Exception] = ValueError) -> None:
    """Checks that a number is positive and finite, unless it is being traced.

    Args:
        note: ends the message, such as " (published: 7)".

    Raises:
        ValueError: (or `error`) unless it is positive and finite.
    """
    if concrete(value) and not 0 < value < np.inf:
        raise error(f"{name} is {value}, expected a positive number{note}.")


def closest(name: Any, options: Iterable[str]) -> str | None:
    """Finds the option that a mistyped name is most like, or None; a part of an option may be what was meant."""
    options = sorted(options)
    by_part = {part: option for option in options for part in re.split("[./]", option)}
    whole = difflib.get_close_matches(str(name), options, 1)
    return next(iter(whole or (by_part[part] for part in difflib.get_close_matches(str(name), by_part, 1))), None)


MANY, FEW = 200, 12  # names that a message lists whole, more than any of code; of more of them, which data brings


def nearest(name: Any, options: Iterable[str], where: str = "") -> str:
    """Writes 'nearest is x; it has the options', to end an error message; a part of an option may be what was meant.

    Args:
        where: all options are to be found, to be said in their place.
    """
    close = closest(name, options := sorted(options))
    return ("" if close is None else f"nearest is {close!r}; ") + (where or f"it has {listed(options)}")


def listed(names: Sequence[str]) -> str:
    """Writes names for a message, all of them or, of more than MANY, how many there are, and FEW."""
    whole = len(names) <= MANY
    return ", ".join(names) or "none" if whole else f"{len(names)}, such as {', '.join(names[:FEW])}"


def one_of(name: Any, table: Mapping[str, Any], what: str, use: str = "", more: str = "") -> Any:
    """Gives the entry that a table has by a name.

    Args:
        what: the entries are, such as "data set".
        use: of it, such as " to degrade".
        more: ends the message, with what else would do.

    Raises:
        ValueError: naming the nearest, for another name, and for what is no name at all.
    """
    if not isinstance(name, str):
        raise ValueError(f"Got {type(name).__name__} as the {what}{use}, expected a name: {nearest('', table)}{more}.")
    if name not in table:
        raise ValueError(f"There is no {what} {name!r}{use}: {nearest(name, table)}{more}.")
    return table[name]


def check_rows(name: str, rows: np.ndarray) -> None:
    """Raises a ValueError that names the first row which is not finite, of rows (n, ...)."""
    bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(1))
    if bad.size:
        raise ValueError(
            f"{name}: row {bad[0]} of {len(rows)} is not finite{f', and {len(bad) - 1} more' * (len(bad) > 1)}."
        )


def is_decimal(text: str) -> bool:
    """Tells whether a text is a number in ASCII digits, of a length that Python reads."""
    return text.isascii() and text.isdecimal() and len(text) <= 1000


@functools.cache
def say_once(line: str) -> None:
    """Prints a line on stdout, the first time alone that this process has it to say."""
    print(line, flush=True)


LINE = 1500  # characters of an error: every name of the longest list, and no more of a value that has more


def one_line(text: str, most: int = LINE) -> str:
    """Makes one line of a text for the terminal; the middle of a long one is left out."""
    text = " ".join(str(text).split("\n"))
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text if len(text) <= most else f"{text[: most - 300]} ... {text[-280:]}"


MOST_SAMPLES = 2**24  # in one call, and in one evaluation: they are held in memory, each with its key


def check_seeds(seeds: Any) -> list[int]:
    """Lists the seeds 0 .. n - 1 of a number n, or those that are given.

    Raises:
        ValueError: without any, or for one that is no integer in [0, 2^32).
    """
    if is_int(seeds, MOST_SAMPLES + 1):
        raise ValueError(f"Got {seeds} seeds, expected at most {MOST_SAMPLES} at once; ask for them in parts.")
    found = list(range(seeds)) if is_int(seeds) else list(seeds) if hasattr(seeds, "__iter__") else []
    if not found or not all(is_int(seed) and 0 <= seed < 2**32 for seed in found):
        raise ValueError(f"Got seeds {seeds!r}, expected a number of samples >= 1, or integers in [0, 2^32).")
    return found


BLOCK = 4096  # entries of all examples that are widened to float64 at a time


def blocks(*arrays: Any) -> Iterator[list[np.ndarray]]:
    """Walks over the columns of arrays (n, ...) of one example shape: lists of float64 (n, up to BLOCK) parts."""
    flat = [np.reshape(a, (len(a), -1)) for a in arrays]
    for start in range(0, flat[0].shape[1], BLOCK):
        yield [np.asarray(a[:, start : start + BLOCK], np.float64) for a in flat]


class Axes(NamedTuple):
    """Mean (d,), and the r principal axes (d, r) with their unbiased variances (r,), rising; float64, axes float32."""

    mean: np.ndarray
    variances: np.ndarray
    axes: np.ndarray


def thin_axes(x: Any) -> Axes:
    """Finds the principal axes of n examples (n, ...) of d >= n entries from their (n, n) matrix of inner products.

    At most n - 1 axes, those whose variance is above 1e-10 of the largest. Cost n^2 d and memory n d are linear in d;
    the covariance would be (d, d). ValueError unless n >= 2.
    """
    n = len(x)
    if n < 2:
        raise ValueError(f"Got {n} example, expected at least 2: one has no covariance.")
    centred = lambda part: part - part.mean(0, keepdims=True)
    inner = np.zeros((n, n))
    for (part,) in blocks(x):
        part = centred(part)
        inner += part @ part.T
    squares, vectors = np.linalg.eigh(inner)
    kept = squares > 1e-10 * max(squares[-1], np.finfo(np.float64).tiny)
    turn = vectors[:, kept] / np.sqrt(squares[kept])
    mean = np.concatenate([part.mean(0) for (part,) in blocks(x)])
    axes = np.empty((len(mean), turn.shape[1]), np.float32)
    for i, (part,) in enumerate(blocks(x)):
        axes[i * BLOCK : (i + 1) * BLOCK] = centred(part).T @ turn
    return Axes(mean, squares[kept] / (n - 1), axes)


def imported(name: str) -> tuple[str, Callable, str]:
    """Imports somebody's own member, "package.module:Member": (module, the member, its name in there).

    Raises:
        ValueError: for a name of another form, a module that cannot be imported, or a member that it has not.
    """
    module, _, path = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise ValueError(f"Got {name!r} as a name, expected package.module:Member.")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # of the module's own code, too
        raise ValueError(f"{name} cannot be imported: {type(error).__name__}: {error}.") from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = [n for n, v in vars(found).items() if not n.startswith("_") and callable(v)]
            raise ValueError(f"{module} has no {path!r}: {nearest(part, names)}.")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} is of type {type(found).__name__}, expected a class or a function.")
    return module, found, path
