"""Masked tokens: a network learns each hidden token given those that are seen (Sahoo et al. 2024; Shi et al. 2024).

`methods.discrete` with what needs no choice chosen: the process that hides tokens, the posterior as the target, the
bound as the loss, which is here the integral over t of

    -alpha'_t / (1 - alpha_t)  E sum over hidden i of  -log p_i(x_i | x_t)

(Sahoo et al., eq. 10; Shi et al., eq. 4). As -alpha' dt = dm for the share m = 1 - alpha that is hidden, that is the
integral of E[..] / m over m from 0 to 1, whatever the schedule: none is asked for here, t is the share itself
(alpha = 1 - t, their log-linear schedule), its weight 1 / t.

Without a number of steps a draw opens one token after another, in a random order (`samplers.decoding.random`), which is
exact for exact conditionals; a sampler that is named (`samplers.decoding`, `samplers.categorical`) walks in its place.
With `steps`, or a grid of so many, one step opens a hidden token with probability (t - s) / t from the share t to s,
and draws it from p_i; what is open stays open (kexue 9271). Tokens opened in one step are drawn independently.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from diffjax import denoisers, grids, host, losses, samplers
from diffjax.denoisers.categorical import Known
from diffjax.method import Drawn, Method, Section, attempt, drawing
from diffjax.methods import parts as shared
from diffjax.methods import tokens
from diffjax.methods.discrete import Discrete, discrete
from diffjax.processes import categorical
from diffjax.schedules import Rectified
from diffjax.types import PyTree, Schedule

EVENLY = partial(grids.uniform, n=None, t_min=0.0)  # pyright: ignore[reportArgumentType] (filled in, by size)


class Masked(NamedTuple):
    """The parts, and what follows from them alone.

    Attributes:
        network: init, apply of (x, c, given) -> logits (*shape of x, vocabulary); c is 0: it is told no time.
        vocabulary: V, the number of tokens; V itself stands for a hidden one.
        steps: of a draw, the share hidden falling evenly; None: what the grid says.
        t_min: the least share hidden in training; what lies below is at most t_min times the loss at t_min.
        sampler: process -> sampler, of a draw; None: `categorical.mixture`, or without a number of steps
            `decoding.random`.
        grid: schedule -> times (N + 1,), to t = 0; where its n is None, as many steps as tokens.
    """

    network: Any
    vocabulary: int
    steps: int | None = None
    t_min: float = 1e-3
    sampler: Callable[..., Any] | None = None
    grid: Callable[[Schedule], Any] = EVENLY

    numbers = ("held_out_loss", "masked.bound")  # of an evaluation, beside those of its judge
    drawn_by = ("steps", "sampler", "grid", "nfe")  # what another draw may change

    @property
    def open(self) -> bool:
        """Whether the number of steps is left to the number of tokens."""
        return self.steps is None and _number(self.grid, 0) is None

    def how(self) -> str:
        """Says how samples are made, for a report."""
        if self.sampler is None and (self.open or self.steps):
            return "one token a step, in a random order" if self.open else f"{self.steps} ancestral steps"
        if self.sampler is not None and self.open:
            return f"{shared.spec_of(self.sampler)['name']}, a step for each token"
        return self.parts().how()

    def worded(self, words: dict[str, Any], make: Callable[[str, Any], Any]) -> dict[str, Any]:
        """Makes parts of the words of a draw, as `methods.parts.worded`; steps and grid: what is asked for replaces."""
        made = shared.worded(self, words, make)
        asked = {"grid": {"steps": None}, "steps": {"grid": EVENLY}}
        return {**next((asked[name] for name in asked if name in made), {}), **made}

    def parts(self, size: int = 1) -> Discrete:
        """Makes the parts of `methods.discrete` that these stand for, of sequences of `size` tokens."""
        own = samplers.decoding.random if self.open else samplers.categorical.mixture  # (masked.3)
        counted = self.steps is None and not self.open
        return discrete(
            self.network,
            categorical.masked(Rectified(), self.vocabulary),
            denoisers.categorical.Whole(),
            losses.categorical.score_entropy,  # (masked.1)
            times=partial(losses.times.stratified, t_min=self.t_min),
            sampler=self.sampler or own,
            grid=self.grid if counted else partial(self.grid, n=self.steps or size),  # pyright: ignore
        ).parts

    def known(self, params: PyTree, given: dict, **options: Any) -> Known:
        """Makes the denoiser of the network: the law of each token given those that are seen."""
        return self.parts().known(params, given, **options)

    def check_examples(self, dataset: Any) -> None:
        """Raises a ValueError for a data set without tokens, or with some outside the vocabulary."""
        self.parts().check_examples(dataset)

    def method(self) -> Method:
        """Makes the method: what these parts train, and how they draw."""
        return masked(**self._asdict())


def _number(grid: Callable, other: Any) -> Any:
    return getattr(grid, "keywords", {}).get("n", other)


@drawing(
    "steps",
    instead=(("grid.n", "method.steps"), ("method.steps", "grid.n")),  # as `Masked.worded` has it
    sampler={"name": None},
    grid={"name": "uniform", "n": None, "t_min": 0.0},
)
def masked(
    network: Any,
    vocabulary: int,
    steps: int | None = None,
    t_min: float = 1e-3,
    sampler: Callable[..., Any] | None = None,
    grid: Callable[[Schedule], Any] = EVENLY,
) -> Method:
    """Makes the method of these parts (`Masked`).

    Raises:
        ValueError: for a vocabulary under 2, steps under 1 or beside a grid's n, t_min outside (0, 1); from `init`, for
            an x that is not of integers, or a network whose logits are not those of the vocabulary at each place; from
            `plan`, for more steps than tokens.
    """
    host.check_int("vocabulary", vocabulary, 2, most=2**24)
    if steps is not None:
        host.check_int("steps", steps, most=1_000_000)
    if not 0 < t_min < 1:
        raise ValueError(f"Got t_min = {t_min!r}, expected a share of hidden tokens inside (0, 1), such as 1e-3.")
    of = Masked(network, vocabulary, steps, t_min, sampler, grid)
    if steps is not None and (n := _number(grid, None)) is not None:
        raise ValueError(
            f"method.steps is {steps} and the grid's n is {n}, two names of one number: give one of them "
            f"(method.steps={n}, or method.steps=None)."
        )

    def plan(shape: tuple[int, ...], trace: Callable | None = None) -> Any:
        number, name = (_number(grid, None), "grid.n") if steps is None else (steps, "method.steps")
        if shape and sampler is None and host.is_int(number, 1) and number > (size := math.prod(shape)):
            raise ValueError(
                f"{name} is {number}, more than the {size} tokens of an example; take at most {size}, or none "
                f"({name}=None): one token a step, which is exact where the network is."
            )
        return of.parts(max(math.prod(shape), 1)).method().plan(shape, trace)

    def report(run: Any, drawn: Drawn) -> list[Section]:
        return attempt("the loss and the bound", lambda: tokens.sections(run, of.parts(), "masked"))

    return of.parts().method()._replace(plan=plan, parts=of, report=report)
