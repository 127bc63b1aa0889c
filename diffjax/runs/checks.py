"""What a run may not ask for, said in one line before anything runs; each function takes the parts that it looks at."""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax import bounds, calculus, cluster, data, denoisers, draws, ema, host, players, training
from diffjax.config import Config, ConfigError, nearest, one_line
from diffjax.data import Dataset
from diffjax.logs import LOGGERS
from diffjax.method import Method
from diffjax.methods import Denoising
from diffjax.metrics import judges
from diffjax.runs.settings import Settings, home


def check_ema(settings: Settings, emas: ema.Ema, kind: str = "it") -> None:
    """Checks that the average that samples are made with is tracked, or can be made of what is stored along the run."""
    name, every = settings.ema, settings.snapshot_every
    names = list(jax.eval_shape(emas.init, jnp.zeros(())).averages)
    if every is not None and (every < 1 or every % settings.steps_per_dispatch):
        raise ConfigError(
            f"checkpoint.snapshot_every is {every}, expected a multiple of train.steps_per_dispatch, "
            f"{settings.steps_per_dispatch}, or None to store no averages."
        )
    if every is not None and emas.combine is None:
        raise ConfigError(f"checkpoint.snapshot_every is {every}, but ema.{kind} makes nothing of snapshots.")
    if name in names:
        return
    if emas.combine is None:
        raise ConfigError(f"sample.ema is {name!r}: {nearest(name, names)}.")
    emas.combine(name, [1])
    if every is None or every > settings.sample_every:
        raise ConfigError(
            f"sample.ema is {name!r}, which is not tracked ({', '.join(names)} are) and needs stored "
            f"averages: train with checkpoint.snapshot_every <= train.sample_every, {settings.sample_every}; "
            f"got {every}."
        )


def check_settings(settings: Settings) -> None:
    """Counts are positive and meet at dispatches; loggers, backend and policy exist."""
    if not 0 <= settings.seed < 2**32:
        raise ConfigError(f"seed is {settings.seed}, expected an integer in [0, 2^32).")
    counts = ("steps", "batch_size", "accumulate", "steps_per_dispatch", "log_every", "sample_every")
    for field in (*counts, "samples", "time_bins", "chunk", "checkpoint_every", "keep", "fsdp", "tensor"):
        host.check_int(home(field), getattr(settings, field), 1, ConfigError, bounds.MOST)
    host.check_int("checkpoint.best", settings.best, 0, ConfigError)
    for field in ("steps", "log_every", "sample_every"):
        if getattr(settings, field) % settings.steps_per_dispatch:
            raise ConfigError(
                f"train.{field} = {getattr(settings, field)} is not a multiple of train.steps_per_dispatch, "
                f"{settings.steps_per_dispatch}: set that to a divisor of it."
            )
    for name in settings.loggers:
        if name not in LOGGERS:
            raise ConfigError(f"train.loggers holds {name!r}: {nearest(name, LOGGERS)}.")
    for field, of in (("backend", ("jit", "pmap")), ("nonfinite", ("stop", "skip")), ("best_by", ("loss", "held_out"))):
        if (value := getattr(settings, field)) not in of:
            raise ConfigError(f"{home(field)} is {value!r}: {nearest(value, of)}.")
    if cluster.several() and (settings.devices is not None or settings.backend == "pmap"):
        field = "backend" if settings.devices is None else "devices"
        why = f"{getattr(settings, field)!r}, but there are several processes, which train by 'jit' on all devices"
        raise ConfigError(f"train.{field} is {why}: leave it out.")


def check_objects(method: Method, dataset: Dataset, optimizer: Any, settings: Settings, emas: ema.Ema) -> None:
    """Objects are of their kinds, go together, and can be called: a step and a sample of one example are traced."""
    for name, got, kind in (("method", method, Method), ("data", dataset, Dataset)):
        if not isinstance(got, kind):
            ways = {"method": "methods.denoising(network, process, target)", "data": "data.arrays(x, label=y)"}
            raise ConfigError(f"Got {type(got).__name__} as the {name}, expected a {kind.__name__}: {ways[name]}.")
    with one_line():
        players.check_optimizers(method, optimizer)
        training.check_parts(method, settings.accumulate, settings.batch_size, settings.best_by)
        data.check_rows(method, dataset)
        data.check_words(method, dataset, settings.label, settings.text)
        bounds.check_run(data.blank(dataset), len(method.turns), settings)
    least, why = dataset.least
    if settings.samples < least:
        raise ConfigError(f"eval.samples is {settings.samples}, expected at least {least}: {why}.")
    check_read(method, dataset)
    check_calls(method, dataset, optimizer, emas)


def check_read(method: Method, dataset: Dataset) -> None:
    """Checks that what data gives is read, and that what is read is given."""
    brought = tuple(data.blank(dataset).given)
    needs = getattr(method.parts, "needs", ()) if method.asks is None else method.asks
    gives = f"{dataset.name} gives {', '.join(brought) or 'nothing'}"
    if missing := [name for name in needs if name not in brought]:
        raise ConfigError(f"The method reads {', '.join(missing)} of what is given, but {gives}.")
    if method.asks is None:
        return
    if unread := [name for name in brought if name not in (*method.asks, *dataset.unread)]:
        reads = ", ".join(method.asks) or "nothing"
        raise ConfigError(
            f"{gives}, but nobody reads {', '.join(unread)}: network and process together read {reads}. Leave it out "
            f"of the data ({unread[0]}=None where that is an option), give the network a field for it, or say that it "
            f"may stay unread: in Python dataset._replace(unread={(*dataset.unread, *unread)})."
        )


def check_calls(method: Method, dataset: Dataset, optimizer: Any, emas: ema.Ema) -> None:
    """Traces a step's losses and a sample of one example: what they refuse is said before anything runs."""
    key, example = jax.random.key(0), data.blank(dataset)
    batch = jax.tree.map(lambda a: a[None], example)
    try:
        if method.prepare is not None:
            batch = jax.jit(method.prepare.apply)(method.prepare.init(), key, batch)
        if method.learned is not None:
            method.learned(method.prepare.init())  # pyright: ignore[reportOptionalMemberAccess]
        params = jax.eval_shape(method.init, key, example)
        players.check_players(method, params)
        bounds.check_state(jax.eval_shape(lambda p: training.init_state(p, optimizer, emas, key, method), params))
        if hasattr(method.parts, "check_loss"):
            method.parts.check_loss(params, jax.tree.map(lambda a: a[0], batch))
        for turn in method.turns:
            losses = lambda p, turn=turn: turn.losses(p, key, batch, jnp.zeros(1, jnp.int32), 1)
            training.check_losses(*jax.eval_shape(losses, params))
        request = method.plan(dataset.shape, draws.visible)  # as an evaluation draws, with its walk
        given = example.given if method.asks is None else {name: example.given[name] for name in method.asks}
        training.check_drawn(jax.eval_shape(lambda p: method.draw(p, request, key, given), params), dataset.shape)
    except KeyError as error:
        if error.args[0] in example.given:
            raise
        gives = ", ".join(example.given) or "nothing"
        raise ConfigError(
            f"The method reads {error.args[0]} of what is given, but {dataset.name} gives {gives}."
        ) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except (TypeError, AttributeError, IndexError, OverflowError) as error:  # of somebody's own function
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConfigError(f"The method fails on one example, x of shape {example.x.shape}: {said}") from error


def remarks(method: Method, dataset: Dataset) -> list[str]:
    """Says, a line each, what is no mistake but maybe a slip, and what the report of such a run will be without."""
    own = getattr(method.parts, "remarks", lambda dataset: [])
    found = [*data.remarks(dataset, "label" in data.asked(method, dataset)), *own(dataset)]
    lacks = judges.trial(data.undone(dataset))
    return [*found, *(f"the report will be without {name}: {why}" for name, why in lacks.items())]


def check_words(config: Config, of: Denoising, dataset: Dataset) -> None:
    """Groups of a config of denoising go together: what only its words can get wrong."""
    _check_augment(config, of, dataset)
    _check_pairs(config, of, dataset)
    _check_maps(config)
    _check_given(config, of, dataset)


def _check_augment(config: Config, of: Denoising, dataset: Dataset) -> None:
    x = jax.ShapeDtypeStruct(dataset.shape, jnp.float32)
    _, label = jax.eval_shape(of.augment, jax.eval_shape(lambda: jax.random.key(0)), x)
    taken = config.model.get("augment", 0)
    if label is not None and label.size != taken:
        raise ConfigError(
            f"augment.{config.augment.name} gives a label of {label.size} entries, but model.augment is "
            f"{taken}; set model.augment={label.size} (UNet has it), or augment.name=none."
        )


def _check_maps(config: Config) -> None:
    wanted = denoisers.variance.TRAINED_BY.get(config.denoiser.name)
    if wanted and config.loss.name not in wanted:
        raise ConfigError(
            f"denoiser.{config.denoiser.name} reads a second map of the network, which losses.{' or '.join(wanted)} "
            f"trains; this run's loss is {config.loss.name}."
        )


def _check_pairs(config: Config, of: Denoising, dataset: Dataset) -> None:
    example = data.blank(dataset)
    if "z" not in example.chosen:
        return
    batch = jax.tree.map(lambda a: a[None], example._replace(chosen={}, given={}))
    prepare = of.method().prepare
    chosen = {} if prepare is None else prepare.apply(prepare.init(), jax.random.key(0), batch).chosen
    if config.augment.name != "none":
        raise ConfigError(f"augment.{config.augment.name} would part each x from its z: set augment.name=none.")
    if "z" in chosen:
        raise ConfigError(f"prepare.{config.prepare.name} would part each x from its z: set prepare.name=nothing.")
    if not calculus.flow_only(of.schedule) or calculus.clock_only(of.schedule):
        raise ConfigError(
            "The data comes in pairs (x, z), so that x_t given x_0 is not Gaussian and only the flow is right: set "
            "process.name=path.rectified (schedule.name=Rectified)."
        )


def check_labels(config: Config, none: Any) -> None:
    """Checks that what asks for conditions has a network that may be without them: `none` says of each what then."""
    name, dropout, label = config.guidance.name, config.train.label_dropout, config.sample.label
    if not 0 <= dropout < 1:
        raise ConfigError(f"train.label_dropout is {dropout}, expected a share in [0, 1); Ho and Salimans: 0.1 to 0.2.")
    asked = {"train.label_dropout": dropout and not none, "sample.label": label is not None and "label" not in none}
    if lacks := [field for field, lack in asked.items() if lack]:
        what = "labels: set model.classes" if lacks[0] == "sample.label" else "condition: set model.classes, model.text"
        raise ConfigError(f"{lacks[0]} is set, but the model takes no {what}.")
    if name != "none" and not (none and dropout):
        why = f"was trained without {' and '.join(none)} too: set train.label_dropout, to 0.1 say"
        raise ConfigError(f"guidance.{name} needs a model that {why if none else 'is conditional: set model.classes'}.")
    if isinstance(label, int) and not (rows := data.Rows(n := int(none["label"]), n if dropout else None)).has(label):
        raise ConfigError(f"sample.label is {label}, {rows.said()}")


def _check_given(config: Config, of: Denoising, dataset: Dataset) -> None:
    """Data brings what the process asks for and no more, and the network has room for it."""
    channels = config.model.get("condition", 0)
    of.process.check_data(tuple(data.blank(dataset).given), dataset.name)
    if channels and not of.process.conditions:
        raise ConfigError(f"model.condition is {channels}, but only a bridge has endpoints: process.name=bridge.")
    if channels not in (0, last := dataset.shape[-1] if dataset.shape else 0):
        raise ConfigError(f"model.condition is {channels}, expected {last}, the endpoint's channels, or 0.")
    if of.process.conditions and config.augment.name != "none":
        raise ConfigError("augment transforms x alone, not its endpoint: set augment.name=none.")
