"""Parts of the wrong kind: a class for its object, a function of other arguments, a position for a name."""

import functools

import numpy as np
import pytest
from own_objects import VP, denoising

from diffjax import config, denoisers, grids, likelihood, losses, methods, operators, processes, samplers, schedules

PARTS = {
    "weight of t": (
        dict(weight=lambda t: t),
        r"Got <lambda>\(t\) as the weight, .* function of \(schedule, target, t\)",
    ),
    "weight's maker": (
        dict(weight=losses.weights.unit),
        r"Got unit\(\) as the weight, .* such as losses\.weights\.unit\(\)",
    ),
    "weight, a number": (dict(weight=1.0), r"Got 1\.0 as the weight, expected a function"),
    "loss": (
        dict(loss=lambda net, x: x),
        r"Got <lambda>\(net, x\) as the loss, .* \(net, process, target, x0, z, t, weight\)",
    ),
    "times of the schedule": (
        dict(times=losses.times.stratified(schedules.VP())),
        r"Got draw\(keys, index, batch_size\) as the times, expected a function of \(schedule\)",
    ),
    "prepare": (dict(prepare=lambda: None), r"Got <lambda>\(\) as the prepare"),
    "augment": (dict(augment=lambda x: x), r"as the augment, expected a function of \(key, x\)"),
    "denoiser": (dict(denoiser=lambda net: net), r"as the denoiser, .* \(net, schedule, target, chain\)"),
    "guidance, a number": (dict(guidance=2.0), r"Got 2\.0 as the guidance, .* \(branch, given, hidden\)"),
    "sampler of the schedule": (
        dict(sampler=samplers.ancestral.ddim(schedules.VP())),
        r"Got Sampler\(.* as the sampler",
    ),
    "sampler's module": (dict(sampler=samplers.ancestral), r"Got <module .* as the sampler"),
    "sampler's name": (dict(sampler="ddim"), "Got 'ddim' as the sampler, .* such as samplers.ancestral.ddim"),
    "sampler's class": (dict(sampler=samplers.Sampler), r"Got Sampler\(step, plan, .* as the sampler"),
    "grid's times": (dict(grid=grids.uniform(schedules.VP(), n=5)), r"as the grid, .*partial\(grids\.uniform, n=20\)"),
    "schedule's class": (dict(process=processes.Gaussian(schedules.VP)), r"the class VP as its schedule, .*: VP\(\)\."),
    "target's class": (dict(target=denoisers.V), "as the target, a class, not an object of it"),
    "condition, a function": (dict(condition=lambda given: given), r"as the condition, expected methods\.Condition\("),
    "condition, a table": (dict(condition={"label": 2}), r"Got \{'label': 2\} as the condition"),
    "condition's class": (dict(condition=methods.Condition), "as the condition"),
    "condition by position": (
        dict(condition=methods.Condition(8, 0.1)),
        r"Got Condition\(8, 0\.1\), .*\{'label': 8\}, share",
    ),  # pyright: ignore[reportArgumentType]
    "condition, swapped": (dict(condition=methods.Condition(0.1, {"label": 2})), r"Got Condition\(0\.1, \{"),  # pyright: ignore[reportArgumentType]
    "condition's name": (dict(condition=methods.Condition("label", 0.1)), r"Got Condition\('label', 0\.1\)"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_another_kind_is_one_line(name):
    parts, match = PARTS[name]
    with pytest.raises(ValueError, match=match) as error:
        denoising(**parts)
    assert "\n" not in str(error.value)


def test_parts_that_are_right_pass():
    """Partials, objects with __call__, defaults and functions that take anything."""

    class Weight:
        def __call__(self, schedule, target, t, power=1.0):
            return t**power

    denoising(weight=Weight(), loss=lambda *args: 0.0, sampler=functools.partial(samplers.ancestral.ddim, eta=1.0))
    assert denoising(condition=methods.Condition({"label": 2}, np.float32(0.1))).parts.condition.share == np.float32(
        0.1
    )


CLASSES = {
    "grid": lambda: grids.log_snr(schedules.VP, n=5),
    "sampler": lambda: samplers.ancestral.ddim(schedules.VP).plan(np.array([1.0, 0.5, 0.0])),
    "denoiser": lambda: denoisers.denoiser(lambda x, c: x, schedules.VP, denoisers.V()),
    "path": lambda: processes.path.rectified(schedules.VP),
    "likelihood": lambda: likelihood.ode(np.array([1.0, 0.1]), processes.Gaussian(schedules.VP)),
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_schedules_class_is_asked_to_be_an_object(name):
    with pytest.raises(ValueError, match=r"^Got the class VP, expected an object of it: VP\(\)\.$"):
        CLASSES[name]()


def test_a_targets_class_is_asked_to_be_an_object():
    with pytest.raises(ValueError, match=r"^Got the class V, expected an object of it: V\(\)\.$"):
        denoisers.denoiser(lambda x, c: x, VP.schedule, denoisers.V)  # pyright: ignore[reportArgumentType]


def weight_of_ones_own(schedule, target, t):
    return t


def test_options_without_a_default_are_asked_for():
    with pytest.raises(config.ConfigError, match=r"convolve also needs kernel: give kernel=\.\.\. beside the name"):
        config.build(operators, config.spec("convolve"), (8, 8, 1))
    own = config.spec(f"{__name__}:weight_of_ones_own")
    with pytest.raises(config.ConfigError, match=r"needs schedule, target, t: a name stands for what makes the part"):
        config.build(losses.weights, own)
