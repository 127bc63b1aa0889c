"""What may change when a run goes on: each field of its config is free, extending, or fixed.

    free       how often, where, and with what a run is looked at: train.log_every, checkpoint.*, eval.*, sampler.*, ...
    extending  how long it learns and how fast, from here on: train.steps, learning_rate.*
    fixed      all else: with another value it would be another run

Once n updates are made, another rate holds from update n on: what held before stays on record, so that a step made
again, from an older checkpoint, is made as it was. A schedule that decays towards the end of the run is laid over the
new steps by a rule, asked for by name (learning_rate.extend):

    stretch    from where it began to the new end, as if so planned: the rate at n may jump
    restart    from its peak at n to the new end
    hold       as it was planned; after its end the rate stays what it is there
"""

import json
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffjax import disk
from diffjax.config import Config, ConfigError, flat, nearest, override

FREE = (  # fields, and groups that end in a dot
    "name",
    *("train.log_every", "train.sample_every", "train.loggers", "train.nonfinite"),
    *("train.devices", "train.fsdp", "train.tensor", "train.backend"),  # these and the next two: equal to rounding
    *("train.steps_per_dispatch", "train.accumulate"),
    *("train.shards", "objects.settings.shards"),
    *("checkpoint.", "eval.", "sample.", "sampler.", "grid.", "denoiser.", "guidance."),
    *(f"objects.settings.{name}" for name in ("nonfinite", "backend", "steps_per_dispatch", "accumulate", "time_bins")),
    *(f"objects.settings.{name}" for name in ("log_every", "snapshot_every")),
    *("data.data_dir", "data.path"),  # where the data is; that it is the data, its digest says
    "data.workers",
)
OPEN = ("sampler.", "grid.", "denoiser.", "guidance.", "sample.", "eval.")  # groups that a draw may change
SPLIT = ("train.fsdp=", "train.tensor=")  # the devices of parameters: samples differ by rounding alone
STRICT = "train.shards="  # whether samples are the same bytes on any number of devices
FLAGS = {"sampler": "--sampler", "grid": "--nfe"}  # what a group is called on the command line too
STEPS, RULE, PLANS = "train.steps", "learning_rate.extend", "learning_rate.plans"
RULES = ("stretch", "restart", "hold")
TO_THE_END = ("linear", "cosine", "exponential")  # schedules that know the end of the run
_NO_RATE = ("extend", "plans")  # of the group learning_rate, what says nothing of one schedule


def redrawn(config: Config, changes: Iterable[str], make: Callable) -> Config:
    """Changes the config of a trained run, in place, in what the run leaves open to its draws.

    Args:
        changes: "a.b=value".
        make: the function that makes the method, marked with what else may change (`method.drawing`).

    Raises:
        ConfigError: for a field that a draw cannot change, or of a part that the method draws without.
    """
    changes = list(changes)
    fields, others = [text.partition("=")[0] for text in changes], dict(getattr(make, "instead", ()))
    free = (*OPEN, *SPLIT, STRICT, *(f"method.{name}=" for name in getattr(make, "drawn_by", ())))
    for text in changes:
        if not text.startswith(free):
            said = ", ".join(name.rstrip(".=") for name in free)
            raise ConfigError(f"{text!r} would change a trained run; here only {said} can be set.")
        if (group := text.partition(".")[0]) not in config:
            flag = f" ({FLAGS[group]})" if group in FLAGS else ""
            raise ConfigError(
                f"{text!r}{flag} is of a {group}, but the method of this run, {config.method.name}, draws without one: "
                "leave it out."
            )
    given_up = [f"{others[field]}=None" for field in fields if field in others and others[field] not in fields]
    for text in [*given_up, *changes]:
        override(config, text)
    if any(text.startswith((STRICT, *SPLIT)) for text in changes):
        _check_strict(**{name: config.train[name] for name in ("shards", "fsdp", "tensor")})
    return config


def _check_strict(shards: Any, fsdp: int, tensor: int) -> None:
    if not shards:
        return
    if type(shards) is not int or shards < 0 or shards & (shards - 1):
        raise ConfigError(
            f"train.shards is {shards}, expected 0 or a power of two, such as 8; draws are the same for each but 0."
        )
    if fsdp * tensor > 1:
        raise ConfigError(
            f"train.shards is {shards}, which needs train.fsdp and train.tensor to be 1: every device has all. Set "
            "them so, or train.shards=0."
        )


class Change(NamedTuple):
    """A field of a config that is another when a run goes on."""

    field: str
    old: Any
    new: Any

    @property
    def kind(self) -> str:
        """Tells whether the field is "free", "extending" or "fixed"."""
        if self.field.startswith(tuple(f for f in FREE if f.endswith("."))) or self.field in FREE:
            return "free"
        return "extending" if self.field == STEPS or self.field.startswith("learning_rate.") else "fixed"

    def __str__(self) -> str:
        return f"{self.field}: {self.old} -> {self.new}"


class FixedError(ConfigError):
    """The error of a change that makes another run of it.

    Args:
        text: the message, with {} where it says how to begin a new run from this one.
        where: the workdir.
        objects: whether it is a run of objects, which no command makes.
        done: whether no step would be left to that run.
    """

    def __init__(self, text: str, where: str, objects: bool = False, done: bool = False):
        self.text, self.where, self.done = text, where, done
        command = f"--config.train.start={where} --config.train.carry=state"
        super().__init__(text.format(f"Trainer(..., carry={where!r})" if objects else command))

    def typed(self, source: str, overrides: Iterable[str]) -> "FixedError":
        """Makes the error whose message has the whole command, from the config and the overrides of this start."""
        carried = [f"train.start={self.where}", "train.carry=state", *(["train.steps=MORE"] if self.done else [])]
        words = ["python", "-m", "diffjax.main", f"--config={source}", "--workdir=NEW"]
        self.args = (self.text.format(shlex.join([*words, *(f"--config.{text}" for text in [*overrides, *carried])])),)
        return self


def changes(saved: Config, asked: Config) -> list[Change]:
    """Lists the fields in which two complete configs differ, but the rule and the record of earlier rates."""
    old, new = flat(saved), flat(asked)
    names = [name for name in sorted(old.keys() | new.keys()) if name not in (RULE, PLANS)]
    found = [Change(name, old.get(name, "absent"), new.get(name, "absent")) for name in names]
    return [change for change in found if change.old != change.new]


def check(saved: Config, config: Config, where: str, step: int = 0) -> list[Change]:
    """Holds the config that a run is to go on with against the one it has; gives what changes.

    Args:
        where: the workdir, for the message.
        step: the newest that is saved.

    Raises:
        FixedError: for another value of a fixed field.
        ConfigError: for rates that do not go on from those on record, as `joined` makes them.
    """
    found = changes(saved, config)
    if fixed := [change for change in found if change.kind == "fixed"]:
        shown = "; ".join(map(str, fixed[:4])) + ("; ..." if len(fixed) > 4 else "")
        raise FixedError(
            f"{_braced(where)} holds a run of another config ({_braced(shown)}), which is fixed once a run has "
            "begun; give another --workdir. To begin there with the state of this run, if it fits: {}",
            where,
            "objects" in config,
            "train" in config and config.train.steps <= step,
        )
    if not any(change.kind == "extending" for change in found):
        if _plans(config) != _plans(saved):
            raise ConfigError(f"{where}: {PLANS} is written by resuming alone; leave it out.")
        return found
    before, after = _plans(saved), _plans(config)
    if after == before and _needs_rule(config):
        raise ConfigError(_ask(saved, config))
    if len(after) < len(before) or after[: len(before[:-1])] != before[:-1]:
        raise ConfigError(f"{where} was given other rates meanwhile; look at its config.json, and start again.")
    return found


def joined(saved: Config, asked: Config, where: str, step: int, updates: int) -> Config:
    """Makes the config that a run goes on with: what is asked for, its rates laid after those on record.

    Args:
        saved, asked: complete configs, of the run and of this start.
        where: the workdir, for messages.
        step: the newest that is saved.
        updates: applied until there; fewer than the steps, where some were skipped.

    Raises:
        FixedError: for another value of a fixed field.
        ConfigError: for fewer steps than are made, or a decay without a rule.
    """
    config, rule = asked.copy_and_resolve_references(), asked.learning_rate.get("extend")
    with config.unlocked():
        config.learning_rate.extend = None
        config.learning_rate.plans = saved.learning_rate.get("plans", ())
    found = changes(saved, config)
    if rule is not None and rule not in RULES:
        raise ConfigError(f"{RULE} is {rule!r}: {nearest(rule, RULES)}.")
    if any(change.kind == "fixed" for change in found):
        check(saved, config, where, step)
    if asked.train.steps < step:
        raise ConfigError(
            f"{STEPS} is {asked.train.steps}, but {where} is at step {step}: give as many or more, or leave it out."
        )
    extending = [change.field for change in found if change.kind == "extending"]
    if extending:
        with config.unlocked():
            config.learning_rate.plans = _extended(saved, config, rule, updates, extending == [STEPS])
    return config.lock()


def _braced(text: str) -> str:
    """Text to be formatted once, whose own braces stay."""
    return text.replace("{", "{{").replace("}", "}}")


def carried(config: Config, other: Config, step: int, updates: int) -> Config:
    """Makes the config of a new run, whose rates go on from those of the run that its state is from.

    Args:
        other: complete, of that run; of one of objects, whose rates are not known, nothing goes on.
        step, updates: that it has made, and applied.
    """
    if "learning_rate" not in other:
        return begun(config)
    same = other.copy_and_resolve_references()
    with same.unlocked():
        same.update({name: config[name] for name in config if name not in ("learning_rate", "train")})
        steps, same.train = same.train.steps, config.train.copy_and_resolve_references()
        same.train.steps = steps
    return joined(same, config, str(config.train.start), step, updates)


def begun(config: Config) -> Config:
    """Makes the config of a new run: the rates of the run whose config.json it was read from are not its own."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.learning_rate.plans = ()
    return config.lock()


def remarks(rate: Callable[[Any], Any] | None, updates: int, steps: int) -> list[str]:
    """Says where a run that goes on learns nothing, its rate being 0 from the first of its steps to the last."""
    idle = rate is not None and updates and steps and not float(rate(updates)) and not float(rate(updates + steps - 1))
    return [f"the learning rate is 0 in all of the {steps} steps to come"] if idle else []


def _plans(config: Config) -> list[dict[str, Any]]:
    return [dict(plan) for plan in (config.get("learning_rate") or {}).get("plans", ())]


def _needs_rule(config: Config) -> bool:
    return config.learning_rate.schedule in TO_THE_END


def _ask(saved: Config, config: Config) -> str:
    schedule, old, new = config.learning_rate.schedule, saved.train.steps, config.train.steps
    return (
        f"The {schedule} rate falls until the end of the run, {old} steps before and {new} now: say how it goes on, by "
        f"--config.{RULE}=stretch (as if so planned), restart (from its peak, now), or hold (as it was planned)."
    )


def _extended(saved: Config, config: Config, rule: str | None, updates: int, longer: bool) -> tuple[dict, ...]:
    """The plans of all rates, until and from update `updates`; () where one plan says it all."""
    steps, before = config.train.steps, _plans(saved) or [_plan(saved, 0, saved.train.steps)]
    if rule is None and _needs_rule(config):
        raise ConfigError(_ask(saved, config))
    if rule == "hold" and not longer:
        raise ConfigError(f"{RULE} is 'hold', which keeps the rate as it was, but other fields of it are changed too.")
    begins, ends = before[-1]["begins"], before[-1]["ends"]
    begins, ends = {"restart": (updates, steps), "hold": (begins, ends)}.get(rule or "", (begins, steps))
    now = _plan(config, begins, ends)
    same = longer and not _needs_rule(config) and rule != "restart"
    if same and len(before) == 1:
        return ()
    if same:
        return (*before[:-1], now)
    return (*before[:-1], {**before[-1], "until": updates}, now)


def _plan(config: Config, begins: int, ends: int) -> dict[str, Any]:
    rate: Mapping[str, Any] = config.learning_rate.to_dict()
    own = {name: value for name, value in rate.items() if name not in _NO_RATE}
    return {**own, "begins": begins, "ends": ends, "until": None}


def record(workdir: Path, changes: list[Change], step: int, kind: str | None = None) -> list[str]:
    """Adds changes from a step on to history.json of a workdir, a line each; gives lines to be said.

    Args:
        kind: what is said of them; default that of their fields.
    """
    path, said, past = workdir / "history.json", [], []
    try:
        past = [change for change in disk.read_json(path).get("changes", []) if isinstance(change, dict)]
    except FileNotFoundError:
        pass
    except disk.DamagedFileError as error:
        said = [f"begun anew: {error}"]
    now = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "step": step}
    past += [{**now, "field": c.field, "old": c.old, "new": c.new, "kind": kind or c.kind} for c in changes]
    lines = ",\n".join(json.dumps(change) for change in past)
    disk.write(path, f'{{"changes": [\n{lines}\n]}}\n')
    return [*said, *(f"from step {step} on {change} ({change.kind})" for change in changes)]


def plans_of(config: Config, turns: int = 1, peak: float | None = None) -> tuple[dict[str, Any], ...]:
    """Gives the plans of a config's rates as an optimizer takes them.

    Args:
        turns: updates of a step, for a player that moves several times.
        peak: its own, in the place of the config's.
    """
    times = lambda plan: {name: plan[name] and plan[name] * turns for name in ("begins", "ends", "until")}
    return tuple({**plan, **times(plan), **({"peak": peak} if peak else {})} for plan in _plans(config))
