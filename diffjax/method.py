"""A method: what a run trains, and how it draws, as pure functions of parts; nothing here or below knows a config.

    given    what is known of an example besides x: {} for most, {"label": 3}, {"y": a bridge's endpoint}, later a text
    turn     one update: whose parameters move, down which loss. A step is its method's turns, one after the other
    request  how to draw, planned once on the host: rows of a sampler, an order of positions; () where nothing is

Data makes examples with their `given`, seeds make `given` for what is drawn; network, target and guidance read it.
"""

import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from diffjax import activity
from diffjax.types import Array, Key, Prepare, PyTree


class Example(NamedTuple):
    """One example, or with a leading axis on every leaf a batch of them.

    Attributes:
        x: what is modelled: real numbers or, of tokens, integers.
        given: what is known of it, by name.
        chosen: what was drawn for it beforehand, by the data set or by `Prepare`: its time "t" and the "weight" of its
            loss, its noise "z". A loss draws what is not here.
    """

    x: Any  # NumPy's where data is read, JAX's inside a step
    given: dict[str, Any] = {}  # noqa: RUF012
    chosen: dict[str, Any] = {}  # noqa: RUF012

    def choose(self, **chosen: Any) -> "Example":
        """Makes the example with these drawn beforehand."""
        return self._replace(chosen={**self.chosen, **chosen})


class Keys(NamedTuple):
    """Randomness of one example: `step` is shared by the whole batch, `example` is its own; the two are independent."""

    step: Key
    example: Key


F = TypeVar("F", bound=Callable[..., Any])
KEY_AXES: Any = Keys(None, 0)  # pyright: ignore[reportArgumentType]  # of `keys_of` a batch, for vmap

# (params, key of the turn, batch, places in the global batch (B,), its size) -> losses (B,), scalars to log (B,). The
# scalar "t01" in [0, 1] feeds the loss by time bin; "unweighted" is the loss before importance sampling's weight.
Losses = Callable[[PyTree, Key, Example, Array, int], tuple[Array, dict[str, Array]]]


class Figure(NamedTuple):
    """A picture of a report, as data: `plots.<kind>(path, *args)` draws it into figures/<name>.png."""

    name: str
    kind: str
    args: tuple


class Section(NamedTuple):
    """One part of an evaluation.

    Attributes:
        results: entries of eval.json, numbers and lists by name; those of one name ("metrics") are merged.
        text: of report.md, Markdown; empty: none.
        figures: drawn beside it.
        passed: the verdict of a gate, None where there is none.
    """

    results: dict[str, Any] = {}  # noqa: RUF012
    text: str = ""
    figures: tuple[Figure, ...] = ()
    passed: bool | None = None


class Drawn(NamedTuple):
    """The samples that an evaluation looks at.

    Attributes:
        x: (n, *shape) float32, or int32 tokens.
        given: what each was given, leaves (n, ...).
        trajectory: (n, rows, *shape) along the walk that made it, of large examples of the first few; None where the
            method has no steps.
        seeds: (n,) of the samples, where they are not 0, 1, ...
    """

    x: Any
    given: dict[str, Any]
    trajectory: Any = None
    seeds: Any = None


def merged(sections: list[Section]) -> dict[str, Any]:
    """Joins the results of sections; tables of one name are one table."""
    found: dict[str, Any] = {}
    for section in sections:
        for name, value in section.results.items():
            found[name] = {**found[name], **value} if name in found else value
    return found


OF_TRAINING = (  # what looks at training examples, and says nothing of them when they are decoded
    "copied share",
    "train-neighbour ratio",
    "attribute AUC",
    "attribute AUC, new combinations",
)


def left_out(reasons: dict[str, str]) -> Section:
    """Makes the section that says what an evaluation does without, by name, and why."""
    return Section({"left_out": reasons}, f"\nLeft out: {'; '.join(f'{n} ({why})' for n, why in reasons.items())}.\n")


def metrics_of(sections: list[Section], without: Sequence[str] = ()) -> dict[str, float]:
    """Gives the metrics of sections that have a value, by name, but those of `without`."""
    rows = {name: row for part in sections for name, row in part.results.get("metrics", {}).items()}
    return {name: row["value"] for name, row in rows.items() if row.get("value") is not None and name not in without}


def attempt(name: str, make: Callable[[], list[Section]]) -> list[Section]:
    """Makes sections, or the one that says why they cannot be had: what fails takes nothing else with it.

    What fails for another reason than its input, memory or disk is shown with its trace on stderr.
    """
    try:
        with activity.doing(f"making {name}"):
            return make()
    except Exception as error:
        if not isinstance(error, ValueError | MemoryError | OSError):
            traceback.print_exc()
        return [left_out({name: " ".join(f"{type(error).__name__}: {error}".split())})]


class Turn(NamedTuple):
    """One update of a training step: whose parameters move, down which losses.

    Attributes:
        losses: their mean over the global batch is what goes down.
        moves: the entry of `params` whose gradient is taken and whose optimizer moves it; several: each by its own
            optimizer, at once; None: all of them, by one.
        coupled: whether an example's loss depends on the others of the global batch: `losses` then takes `gather`,
            which makes of a device's rows (B, ...) those of all devices, in order; its results are taken as constants.
        by: optax's optimizer of a player that only one moves rightly, which is then no choice of the run; None: the
            run's. No clipping and no learning rate of the run touch it.
    """

    losses: Losses
    moves: str | tuple[str, ...] | None = None
    coupled: bool = False
    by: Any = None


def _unplanned(shape: tuple[int, ...], trace: Callable | None = None) -> PyTree:
    return ()


class Method(NamedTuple):
    """What a run trains and how it draws.

    Attributes:
        init: (key, one example) -> params.
        turns: what one step does, in order; turn i of n sees the examples i, i + n, ... of the step's batch.
        draw: (params, request, key, given) -> x, for one example whose noise is a function of the key alone.
        plan: (shape of x, trace=None) -> request, a pytree; with a trace, a function of a walk's state, `draw` may give
            (x, trajectory). A request may say how many evaluations of the network one draw takes, as its `nfe`.
        prepare: what happens to the whole batch first; None: nothing.
        learned: memory of `prepare` -> the method by what it has learned; None: nothing is.
        served: the entries of `params` that draw reads: those are averaged and exported; None: all of them.
        asks: names of `given` that draw reads, None: all that data brings. A label alone is made of the seed, all else
            comes from held-out examples.
        parts: the named tuple it was made of, for what only its family can answer (a denoiser, a codec).
        report: (run, drawn) -> sections of an evaluation, after those of the data set; None: it has none of its own.
    """

    init: Callable[[Key, Example], PyTree]
    turns: tuple[Turn, ...]
    draw: Callable[[PyTree, PyTree, Key, dict], Any]
    plan: Callable[..., PyTree] = _unplanned
    prepare: Prepare | None = None
    learned: Callable[[PyTree], "Method"] | None = None
    served: tuple[str, ...] | None = None
    asks: tuple[str, ...] | None = ()
    parts: Any = None
    report: Callable[[Any, Drawn], list[Section]] | None = None


def drawing(*options: str, instead: Sequence[tuple[str, str]] = (), **groups: dict[str, Any]) -> Callable[[F], F]:
    """Marks a function that makes a method with what its config says of draws.

    Args:
        options: of the method, which another draw of a trained run may change, such as "steps".
        instead: pairs of fields of a config that say one thing: a draw that sets the first gives up the second.
        groups: of the config, which differ from those of other methods by default; a part whose name is None is left to
            the method: sampler={"name": None}.
    """

    def marked(make: F) -> F:
        vars(make).update(drawn_by=options, instead=instead, groups=groups)
        return make

    return marked


def per_example(loss: Callable) -> Losses:
    """Makes the losses of a batch from one example's: (params, keys, example, index, size) -> (scalar, scalars to log).

    `split(key)` gives the shared `keys.step`, and the key that an example's place is folded into. The function is
    marked as `apart`: a batch of its may be worked through in parts.
    """

    def losses(params: PyTree, key: Key, batch: Example, index: Array, size: int) -> tuple[Array, dict[str, Array]]:
        one = lambda keys, example, i: loss(params, keys, example, i, size)
        return jax.vmap(one, in_axes=(KEY_AXES, 0, 0))(keys_of(key, index), batch, index)

    vars(losses)["apart"] = True
    return losses


def keys_of(key: Key, index: Array) -> Keys:
    """Makes the keys of examples at these places in the global batch: `step` is one, `example` has an axis (B,)."""
    shared, base = jax.random.split(key)
    return Keys(shared, jax.vmap(jax.random.fold_in, in_axes=(None, 0))(base, index))


def turn_batch(batch: PyTree, turn: int, turns: int) -> PyTree:
    """Picks the examples turn, turn + turns, ... of a batch: each turn has its own, each device keeps what it has."""
    return batch if turns == 1 else jax.tree.map(lambda a: a.reshape(-1, turns, *a.shape[1:])[:, turn], batch)


def served(method: Method | None, params: PyTree) -> PyTree:
    """Picks the entries of `params` that samples are made with."""
    return params if method is None or method.served is None else {name: params[name] for name in method.served}


def size_of(batch: PyTree) -> int:
    """Tells the length of a batch, that of the leading axis of its leaves."""
    return jax.tree.leaves(batch)[0].shape[0]


def abstract(x: Any) -> Any:
    """Makes zeros of the shapes and dtypes of a tree."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), x)
