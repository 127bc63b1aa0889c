"""A run to look at: its method, data, parameters, and how it draws. `open` finds one in a workdir."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffjax import data, ema, parallel, training
from diffjax.checkpoint import Checkpoints
from diffjax.config import Config, ConfigError, override
from diffjax.data import Dataset
from diffjax.method import Method
from diffjax.methods import Denoising
from diffjax.runs import draws, snapshots
from diffjax.runs import workdir as files
from diffjax.runs.build import Built, build_run
from diffjax.runs.settings import Settings
from diffjax.types import Denoiser, Key, PyTree

OPEN = ("sampler.", "grid.", "denoiser.", "guidance.", "sample.", "eval.")  # what a trained run leaves open


class Run(NamedTuple):
    """`method` is that by what the run has learned beside its parameters."""

    method: Method
    data: Dataset
    ema: ema.Ema
    settings: Settings
    state: training.TrainState
    workdir: Path | None = None
    config: Config | None = None

    @property
    def params(self) -> PyTree:
        """What samples are made with: the EMA of `settings`, tracked or made of stored ones."""
        name = self.settings.ema
        if name in self.state.ema.averages:
            return self.state.ema.averages[name]
        assert self.workdir is not None
        return snapshots.combine(self.workdir, self.ema, name, int(self.state.step), self.state.ema)

    @property
    def step(self) -> int:
        """Steps made."""
        return int(self.state.step)

    def denoising(self, what: str) -> Denoising:
        """The parts of a denoising method; ConfigError, saying what needs them, for another."""
        if not isinstance(self.method.parts, Denoising):
            raise ConfigError(f"{what} needs a method that denoises (methods.denoising), which this run's is not.")
        return self.method.parts

    def denoiser(self, given: dict | None = None) -> Denoiser:
        """What the network says of x_0's mean for an example of which this is known."""
        return self.denoising("A denoiser").mean_denoiser(self.params, given or {})

    def given(self, seeds: Any) -> dict[str, np.ndarray]:
        """What the samples of these seeds are given."""
        return draws.given_of(self.method, self.data, list(seeds), self.settings.label)

    def drawer(self, trace: Callable | None = None) -> Callable:
        """`draw(params, seeds, given)` (`draws.drawer`)."""
        return draws.drawer(self.method, self.data.shape, self.settings.chunk, parallel.mesh(), trace)

    def draw(self, seeds: Iterable[int] | int, given: dict | None = None, **parts: Any) -> np.ndarray:
        """Samples (n, *shape) of seeds 0 .. n - 1, or of these.

        Args:
            given: leaves (n, ...); default what the seeds stand for.
            parts: in place of the method's: sampler, grid, guidance, variance (schedule -> ..., as of `Denoising`).
        """
        seeds = list(range(seeds) if isinstance(seeds, int) else seeds)
        run = self._replace(method=self.denoising("Another sampler")._replace(**parts).method()) if parts else self
        return run.drawer()(self.params, seeds, run.given(seeds) if given is None else given)


def open(
    workdir: str | Path, *, step: int | None = None, overrides: Iterable[str] = (), method: Method | None = None
) -> Run:
    """The run of a workdir, from its config.json and a checkpoint.

    Args:
        step: a checkpoint; default the newest good one.
        overrides: "a.b=value" on the saved config: sampler, grid, denoiser, guidance, sample, eval.
    """
    built = build_run(read_config(workdir, overrides))
    try:
        with Checkpoints(Path(workdir) / "checkpoints", create=False, report=print) as checkpoints:
            found = checkpoints.restore(abstract_state(built), step=step)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if found is None:
        raise ConfigError(f"{workdir} has no checkpoint yet; train it first: --mode=train --workdir={workdir}.")
    return of(built, found.state, workdir)


def of(built: Built, state: training.TrainState, workdir: str | Path | None = None) -> Run:
    """The run of what was built, in this state."""
    method = built.method if built.method.learned is None else built.method.learned(jax.device_get(state.memory))
    path = None if workdir is None else Path(workdir)
    return Run(method, built.data, built.ema, built.settings, state, path, built.config)


def read_config(workdir: str | Path, changes: Iterable[str]) -> Config:
    """A run's config, changed in what a trained run leaves open."""
    config = files.read_config(Path(workdir))
    for text in changes:
        if not text.startswith(OPEN):
            raise ConfigError(
                f"{text!r} would change a trained run; here only sampler, grid, denoiser, "
                "guidance, sample and eval can be set."
            )
        override(config, text)
    return config


def init_state(built: Any, start: Callable[[PyTree], PyTree] = lambda params: params) -> training.TrainState:
    """The state before the first step: a function of the seed; `start` puts other parameters in the place of its own."""
    return _state(built, lambda key, example: start(training.first_params(built.method.init, key, example)))


def abstract_state(built: Any) -> training.TrainState:
    """Shapes and dtypes of the state; nothing is computed.

    Raises:
        ConfigError: for a network that does not suit the data.
    """
    try:
        return jax.eval_shape(lambda: _state(built, built.method.init))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _state(built: Any, init: Callable[[Key, Any], PyTree]) -> training.TrainState:
    key_params, key_train = jax.random.split(jax.random.key(built.settings.seed))
    params = init(key_params, data.blank(built.data))
    return training.init_state(params, built.optimizer, built.ema, key_train, built.method)
