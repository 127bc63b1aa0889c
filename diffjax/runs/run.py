"""A run to look at: its method, data, parameters, and how it draws. `open` finds one in a workdir."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffjax import (
    bounds,
    data,
    denoisers,
    draws,
    editing,
    ema,
    exports,
    finetune,
    host,
    identity,
    operators,
    parallel,
    players,
    resume,
    snapshots,
    summary,
    training,
)
from diffjax.checkpoint import Checkpoints, Restored
from diffjax.config import Config, ConfigError, build, maker, named, one_line
from diffjax.data import Dataset
from diffjax.method import Method
from diffjax.methods import parts as kinds
from diffjax.runs import workdir as files
from diffjax.runs.build import Built, build_run, complete, drawn_by, method_of
from diffjax.runs.settings import Settings
from diffjax.types import Denoiser, Key, PyTree


class Run(NamedTuple):
    """What was trained; `method` is that by what the run has learned beside its parameters."""

    method: Method
    data: Dataset
    ema: ema.Ema
    settings: Settings
    state: training.TrainState
    workdir: Path | None = None
    config: Config | None = None

    def __repr__(self) -> str:
        return summary.line("Run", self, self.config)

    @property
    def name(self) -> str:
        """What the run is called in its report."""
        return "run" if self.config is None else self.config.name

    @property
    def step(self) -> int:
        """Number of training steps made."""
        return int(self.state.step)

    @property
    def params(self) -> PyTree:
        """What samples are made with: the average that `settings.ema` names, tracked or made of stored ones."""
        name = self.settings.ema
        if name in self.state.ema.averages:
            return self.state.ema.averages[name]
        if self.workdir is None:
            raise ConfigError(
                f"EMA {name} is made of averages stored along a run, which one without a workdir has not."
            )
        return snapshots.combine(self.workdir, self.ema, name, int(self.state.step), self.state.ema)

    def parts(self, ability: str, what: str) -> Any:
        """Gives the parts of the method, which have this ability.

        Raises:
            ConfigError: saying what needs it, for a method whose parts have not.
        """
        if not hasattr(self.method.parts, ability):
            raise ConfigError(
                f"{what} needs a method with a {ability}, such as methods.denoising; this run's has none."
            )
        return self.method.parts

    def denoiser(self, given: dict | None = None, **words: Any) -> Denoiser:
        """Makes the denoiser that knows x_0's mean, for an example of which this is known, such as label=3."""
        with one_line():
            told = data.known(self.method, self.data, {**(given or {}), **words})
        return self.parts("mean_denoiser", "A denoiser").mean_denoiser(self.params, told)

    def given(self, seeds: Iterable[int], **words: Any) -> dict[str, np.ndarray]:
        """Tells what the samples of these seeds are given; `words`, such as label=3, replace what seeds stand for."""
        with one_line():
            return data.told(self.method, self.data, list(seeds), words, self.settings.label, self.settings.text)

    def mapped(self, one: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Makes `map(shared, rows)` of `one(shared, row)`, in chunks over all devices (`parallel.map_chunks`)."""
        its, batched = self.settings, jax.vmap(one, in_axes=(None, 0))
        return parallel.map_chunks(batched, its.chunk, parallel.mesh(), strict=bool(its.shards))

    def drawer(self, trace: Callable | None = None) -> Callable:
        """Makes `draw(params, seeds, given)` (`draws.drawer`)."""
        its = self.settings
        return draws.drawer(self.method, self.data.shape, its.chunk, parallel.mesh(), trace, strict=bool(its.shards))

    @one_line()
    def draw(self, seeds: Iterable[int] | int, given: dict | None = None, **words: Any) -> np.ndarray:
        """Draws samples (n, *shape), in the data's units, of seeds 0 .. n - 1, or of these.

        Args:
            given: name -> one value for all, or one for each (n, ...), None for no label or text; default what the
                seeds stand for.
            words: entries of `given`, such as label=3; nfe=10, the grid's steps; or parts in place of the method's:
                sampler="dpmpp_2m", specs, or functions; guidance=2.0, one scale of all conditions, in place of two too.

        Raises:
            ConfigError: for a word that is neither, or as `given`.
        """
        run, seeds, told = self._asked(seeds, given, words)
        return self.data.to_data(run.drawer()(self.params, seeds, told))

    @one_line()
    def edit(self, x: Any, strength: float, seeds: Any = None, given: dict | None = None, **words: Any) -> Any:
        """Noises examples x, (n, *shape) or one for all, to a share of the grid's time and walks them back, SDEdit.

        Strength 0 gives x, 1 what `draw` gives. Seeds (default 0 .. n - 1), given, words, errors: as of `draw`.
        Returns an `editing.Edited`.
        """
        self.parts("guided_denoiser", "Editing")
        seeds = (len(x) if np.ndim(x) > len(self.data.seen_shape) else 1) if seeds is None else seeds
        run, seeds, told = self._asked(seeds, given, words)
        return editing.edit(run, x, strength, seeds, told)

    @one_line()
    def restore(self, y: Any, operator: Any, seeds: Any = 1, given: dict | None = None, **words: Any) -> Any:
        """Draws what observations y = A x + noise n, (n, ...) or one for all, were made of: an `editing.Restored`.

        Args:
            operator: x -> A x of one example in the data's units; a name in `operators`, or its spec.
            words: noise=, by= (a name in `denoisers.inverse`, its spec, or a function) and start=, of
                `editing.restore`; all others, seeds, given and errors are those of `draw`.
        """
        self.parts("guided_denoiser", "Restoring")
        own = {name: words.pop(name) for name in ("noise", "by", "start") if name in words}
        if "by" in own and not callable(own["by"]):
            own["by"] = maker(denoisers.inverse, named(own["by"]), 2)
        run, seeds, told = self._asked(seeds, given, words)
        return editing.restore(run, y, self.operator(operator), seeds, told, **own)

    def operator(self, what: Any) -> Callable[[Any], Any]:
        """Makes the operator of a name in `operators`, or of its spec, for examples of this run."""
        with one_line():
            return what if callable(what) else build(operators, named(what), editing.looked_at(self.data))

    def _asked(self, seeds: Any, given: dict | None, words: dict[str, Any]) -> tuple["Run", list[int], dict]:
        """Reads what a draw asks for: the run by its parts, its seeds, and what their samples are given."""
        seeds = host.check_seeds(seeds)
        bounds.check_samples("the number of seeds", len(seeds), data.blank(self.data), self.settings.chunk)
        names = data.asked(self.method, self.data)
        draws.check_words(words, names, self.method.parts)
        parts = {name: part for name, part in words.items() if name not in names}
        run = self._by(parts) if parts else self
        words = {**(given or {}), **{name: value for name, value in words.items() if name in names}}
        return run, seeds, run.given(seeds, **words)

    def export(self, path: str | Path) -> int:
        """Writes the weights file that `open` and train.start take; gives its bytes (`exports.write`)."""
        kept = (self.params, self.state.memory, self.config, self.data, self.step, self.settings.ema)
        return exports.write(path, *kept)

    def _by(self, words: dict[str, Any]) -> "Run":
        """Makes the run that draws by these parts, or by what the words of a draw stand for."""
        worded = getattr(self.method.parts, "worded", lambda words, make: {n: make(n, v) for n, v in words.items()})
        return self._replace(method=self.method.parts._replace(**worded(words, drawn_by)).method())


def open(workdir: str | Path, *, step: int | None = None, overrides: Iterable[str] = ()) -> Run:
    """Opens the run of a workdir, from its config.json and a checkpoint, or that of a weights file.

    Neither needs the data for a draw: a workdir has the card of its data (`data.card`), a weights file in its header.

    Args:
        workdir: or a file that `--mode=export` has written.
        step: a checkpoint; default the newest good one.
        overrides: "a.b=value" on the saved config: sampler, grid, denoiser, guidance, sample, eval; train.fsdp and
            train.tensor, over what devices the parameters are to lie; train.shards=8 for the same bytes anywhere.

    Raises:
        ConfigError: for a folder that holds no run of a config, no such checkpoint, other overrides, a split that is
            none of these devices, or a file that is damaged or of another step or average.
    """
    overrides = list(overrides)
    config = read_config(workdir, overrides)
    split = any(text.startswith(resume.SPLIT) for text in overrides) and config.train.fsdp * config.train.tensor != 1
    if split and (os.path.isfile(workdir) or jax.process_count() > 1):
        why = "a weights file, or a run in several processes, is read whole"
        raise ConfigError(f"{why}: leave train.fsdp and train.tensor out, or open a workdir in one process.")
    if os.path.isfile(workdir):
        found = exports.read(workdir)
        built = build_run(config, lambda make: found.data)
        return of(built, exports.state(found, abstract_state(built), step, config.sample.ema))
    built = build_run(config, partial(data.here_or_kept, workdir=workdir))
    if split:
        parallel.chosen(None, 0, error=ConfigError, fsdp=built.settings.fsdp, tensor=built.settings.tensor)
    with one_line():
        data.keep_names(workdir, built.data)
        return of(built, saved_state(built, workdir, step).state, workdir)


def saved_state(built: Any, workdir: str | Path, step: int | None = None) -> Restored:
    """Restores what was saved in a workdir, of this step or the newest good one, as the state of what was built.

    Raises:
        ConfigError: for a folder without such a checkpoint, or one of another shape.
    """
    with one_line(), Checkpoints(Path(workdir) / "checkpoints", create=False, report=print) as checkpoints:
        found = checkpoints.restore(parallel.split_as(abstract_state(built), built.settings, built.method), step=step)
    if found is None:
        raise ConfigError(f"{workdir} has no checkpoint yet; train it first: --mode=train --workdir={workdir}.")
    return found


def of(built: Built, state: training.TrainState, workdir: str | Path | None = None) -> Run:
    """Makes the run of what was built, in this state."""
    method = built.method if built.method.learned is None else built.method.learned(jax.device_get(state.memory))
    path = None if workdir is None else Path(workdir)
    return Run(method, data.kept_units(built.data, path), built.ema, built.settings, state, path, built.config)


def read_config(workdir: str | Path, changes: Iterable[str] = ()) -> Config:
    """Reads a run's config, complete, changed in what a trained run leaves open; or that of a weights file."""
    path = Path(workdir)
    config = complete(exports.read(path).config if os.path.isfile(path) else files.read_config(path)).lock()
    return resume.redrawn(config, changes, method_of(config)[1])


def starting(built: Any, start: Any = None, carry: Any = None, workdir: Any = None) -> dict[str, Any]:
    """Tells what a Trainer begins from: `start`, which takes parameters over from a run, or `carry`, its state.

    Args:
        start: as `finetune.check_start`; default, where there is no carry either, what the config's train says.
        workdir: where a run that has begun may be, which needs no start.
    """
    start, train = finetune.check_start(start, Run), (built.config or {}).get("train")
    network, silent = getattr(built.method.parts, "network", None), start is None and carry is None
    if silent and train is not None:
        taken = finetune.taken(network, train, players.names(built.method))
        start, carry = (None, train.start) if taken == "state" else (train.start, None)
        if taken is not None:
            read_config(train.start)  # refused before there is a workdir
    elif silent and (workdir is None or files.newest(Path(workdir)) is None):
        finetune.check_based(network)
    takes = start is None or callable(start)
    begin = start if takes else lambda params: finetune.take_over(params, _parameters_of(built, start))
    return {name: one for name, one in (("start", begin), ("carry", carry)) if one is not None}


def _parameters_of(built: Any, start: Any) -> PyTree:
    """What a run, or that in a workdir or a weights file, samples with."""
    of, other = built.method, start if isinstance(start, Run) else open(start)
    params, train = other.params, (built.config or {}).get("train", {})
    still = train.get("only") is not None or getattr(getattr(of.parts, "network", None), "side", "")
    try:
        if still or players.names(of) or getattr(of.parts, "teacher", False):
            kinds.need_alike(other.method.parts, of.parts)
        jax.eval_shape(finetune.take_over, abstract_state(built).params, params)
    except ValueError as error:
        raise ConfigError(f"cannot start from {start}: {error}") from error
    print(f"starting from {start}, step {other.step}", flush=True)
    return params


def init_state(built: Any, start: Callable[[PyTree], PyTree] = lambda params: params) -> training.TrainState:
    """Makes the state before the first step, of the seed; `start` puts others in the place of its first parameters."""
    return _state(built, lambda key, example: start(training.first_params(built.method.init, key, example)))


def abstract_state(built: Any) -> training.TrainState:
    """Traces shapes and dtypes of the state; nothing is computed.

    Raises:
        ConfigError: for a network that does not suit the data.
    """
    with one_line():
        return jax.eval_shape(lambda: _state(built, built.method.init))


def _state(built: Any, init: Callable[[Key, Any], PyTree]) -> training.TrainState:
    key_params, key_train = jax.random.split(jax.random.key(built.settings.seed))
    params = init(key_params, data.blank(built.data))
    return training.init_state(params, built.optimizer, built.ema, key_train, built.method)


def fingerprint(built: Built, name: str) -> Config:
    """Makes what a run of objects is known by (`identity.of_objects`)."""
    state, size = abstract_state(built), len(built.method.turns)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), data.blank(built.data))
    program = jax.jit(training.make_step(built.method, built.optimizer, built.ema)).lower(state, batch).as_text()
    return identity.of_objects(name, built.settings._asdict(), built.data.fingerprint, state, program)


def open_checkpoints(workdir: Path, settings: Settings, **options: Any) -> Checkpoints:
    """Opens the checkpoints of a run, kept as its settings say."""
    options |= {"keep": settings.keep, "best": settings.best, "best_metric": settings.best_by}
    return Checkpoints(workdir / "checkpoints", report=lambda line: print(line, flush=True), **options)
