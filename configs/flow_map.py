"""Flow maps of two times on eight Gaussians and on digits: noise to data in one evaluation, or in several.

    python -m diffjax.main --config=configs/flow_map.py           # MeanFlow, one step: a minute on 2 CPU cores
    python -m diffjax.main --config=configs/flow_map.py:adaptive  # the published weight, p = 1
    python -m diffjax.main --config=configs/flow_map.py:flow --workdir=runs/flow   # a flow of these points, and
    python -m diffjax.main --config=configs/flow_map.py:taught                     # a map that has it as its teacher
    python -m diffjax.main --config=configs/flow_map.py:tiny      # every part, small

More steps of a trained run: `--mode=sample --workdir=... --config.method.steps=4`, in Python
`diffjax.open(workdir).draw(1000, steps=4)`. Expected of
the default: an exact W2 under its floor (0.22 for 0.28 at 1024 samples; one Euler step of a velocity would end in the
centre, at 1.4), and samples of one and of four steps apart by a tenth of their standard deviation.

Digits by the U-Net of configs/vpsde.py, from scratch, by a loss of each kind (`losses.eulerian`, `lagrangian`,
`progressive`): digits_meanflow, digits_improved, digits_pixel, digits_scm, digits_lagrangian, digits_terminal,
digits_shortcut, digits_progressive, digits_consistency:

    python -m diffjax.main --config=configs/flow_map.py:digits_improved

From a finished flow digits_NAME begins with its parameters, and taught_NAME has it as the teacher too, whose velocity
stands in the place of the data's. The flow wants the embedding of the angle, as the maps do: its slope in t is smooth.

    python -m diffjax.main --config=configs/flow_map.py:digits_teacher --workdir=runs/digits_flow
    python -m diffjax.main --config=configs/flow_map.py:digits_improved --config.train.start=runs/digits_flow
    python -m diffjax.main --config=configs/flow_map.py:taught_lagrangian

Measured: digits_improved has Frechet distances of 6.95, 5.29, 7.55 in 1, 2, 4 evaluations (b682b72, 640 s of CPU time),
taught_lagrangian 7.00, 5.34, 4.76 (265f0cd, 521 s); the gate's bound is 8.9, and both pass in 2 and
4, in one neither does: coverage or the train-neighbour ratio. docs/results.md has the others.

MNIST by class, by the transformer of configs/mnist.py: mnist_improved (93, 36, 39; 447 s), mnist_meanflow (97, 52, 60)
and mnist_shortcut (not measured) from scratch, and mnist_taught_lagrangian (49, 38, 30; 564 s), mnist_taught_shortcut
(75, 61, 36; 394 s) from a run of that config, at runs/mnist; the gate's bound is 14.4: they are too short for it.

    python -m diffjax.main --config=configs/mnist.py --workdir=runs/mnist
    python -m diffjax.main --config=configs/flow_map.py:mnist_taught_lagrangian

Progressive distillation is taught_halved, of two steps to one (method.steps=1, two_times.n=1). Samples in 1, 2, 4
steps: `--config.method.steps=4` with --mode=eval, or `run.draw(1024, steps=4)`.
"""

import copy

from ml_collections import ConfigDict

from diffjax.config import beside, recipe, spec

_flows, _mnist_of = (beside(__file__, name) for name in ("rectified.py", "mnist.py"))

TEACHER, MNIST_TEACHER, PLANE_TEACHER = "runs/digits_flow", "runs/mnist", "runs/flow"
LOSSES = {  # the loss, and the law of its pairs
    "meanflow": (spec("eulerian.meanflow"), spec("log_normal", same=0.75)),
    "improved": (spec("eulerian.improved"), spec("log_normal", same=0.5)),
    "pixel": (spec("eulerian.pixel"), spec("log_normal", same=0.5)),
    "scm": (spec("eulerian.scm", warm_up=800, sigma_data=0.5), spec("log_normal", mean=-0.4, std=1.2, same=0.0)),
    "lagrangian": (spec("lagrangian.self_distillation"), spec("uniform", same=0.5)),
    "terminal": (spec("lagrangian.terminal"), spec("terminal")),
    "shortcut": (spec("progressive.shortcut", steps=32), spec("dyadic", steps=32, same=0.5)),
    "progressive": (spec("progressive.self_distillation", at=None), spec("uniform", same=0.5)),
    "consistency": (spec("progressive.consistency"), spec("consistency", total=2400, last=160, spacing="even")),
    "halved": (spec("progressive.distillation"), spec("grid", n=1)),
}


def gaussians() -> ConfigDict:
    """The default recipe."""
    config = recipe()
    config.method = spec("flow_map", same=0.25)
    config.data = spec("eight_gaussians")
    config.schedule = spec("Rectified")
    config.times = spec("uniform")
    config.model = spec("MLP", width=64, depth=2, embedding="angle", gap=17)
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=100))
    config.train.update(dict(steps=6000, batch_size=256, steps_per_dispatch=20, log_every=200, sample_every=3000))
    config.checkpoint.every = 1000
    config.sample.chunk = 1024
    return config


def adaptive() -> ConfigDict:
    """Each example's loss over its own size: steadier, and it thins small modes (`methods.flow_map`)."""
    config = gaussians()
    config.method.power = 1.0
    return config


def flow() -> ConfigDict:
    """A flow of one time of these points, that `taught` begins with."""
    config = gaussians()
    del config.method
    config.target = spec("Velocity")
    config.model.gap = 0
    config.sampler, config.grid = spec("multistep.adams", order=2), spec("uniform", n=40)
    return config


def taught() -> ConfigDict:
    """From the parameters of a run of `flow`, with that run as the teacher, by the Lagrangian loss."""
    config = gaussians()
    config.method = spec("flow_map", distil=True)
    config.rule, config.two_times = spec("lagrangian.self_distillation"), spec("uniform", same=0.1)
    config.optimizer = {"map": spec("adam")}
    config.train.start = PLANE_TEACHER
    config.train.steps = 3000
    return config


def digits_teacher() -> ConfigDict:
    """The flow that others begin with."""
    config = _flows.digits()
    config.model.embedding = "angle"
    return config


def _digits(name: str) -> ConfigDict:
    """From scratch."""
    flow = digits_teacher()
    config = recipe()
    config.method = spec("flow_map")
    config.data = spec("digits")
    config.schedule, config.target = flow.schedule, flow.target
    config.model, config.learning_rate = flow.model, flow.learning_rate
    config.model.gap = 17
    config.rule, config.two_times = copy.deepcopy(LOSSES[name])
    if name == "pixel":
        config.target = spec("X0", sigma_data=0.5)
    if name in ("scm", "consistency"):  # taught the way to data alone
        config.method.gamma = 1.0
    return config


def _taught(name: str) -> ConfigDict:
    """From the parameters of a finished flow, with that flow as the teacher."""
    config = _digits(name)
    config.train.start = TEACHER
    config.method.distil = True
    config.optimizer = {"map": spec("adam")}
    config.learning_rate.peak = 1e-3
    if name == "lagrangian":  # the diagonal is learned already, and a step costs 7/3 of a regression
        config.two_times.same, config.learning_rate.peak, config.train.steps = 0.1, 2e-3, 1500
        config.two_times.first = 0.5  # half of the others begin where a single evaluation does
    return config


def _mnist(name: str) -> ConfigDict:
    """From scratch, by class, by the transformer of configs/mnist.py."""
    config, of = _digits(name), _mnist_of.digits()
    config.data, config.model = of.data, of.model
    config.model.update(dict(embedding="angle", gap=17))
    config.learning_rate.peak = 1e-3
    config.train.update(dict(steps=3000, batch_size=of.train.batch_size, sample_every=3000))
    if name == "improved":
        config.rule.power = 1.0  # at a rate of 4e-3 and without it the loss grew a thousandfold from step 100 on
    return config


def _mnist_taught(name: str) -> ConfigDict:
    """From a finished run of configs/mnist.py, on its schedule, with that run as the teacher."""
    config, of = _mnist(name), _mnist_of.digits()
    config.schedule, config.target = of.schedule, of.target
    config.model.embedding = "positional"
    config.train.start, config.method.distil = MNIST_TEACHER, True
    config.optimizer, config.train.steps = {"map": spec("adam")}, 2000
    if name == "lagrangian":  # as on digits
        config.two_times.same, config.learning_rate.peak = 0.1, 2e-3
    return config


def _small(config: ConfigDict) -> ConfigDict:
    config.data.n, config.data.held_out = 2000, 400
    config.model.width = 16
    config.train.update(dict(steps=40, batch_size=32, steps_per_dispatch=1, log_every=10, sample_every=40))
    config.learning_rate.warmup_steps = 5
    config.checkpoint.every = 20
    config.eval.samples = 256
    return config


def tiny() -> ConfigDict:
    """The default at a small size, for tests."""
    return _small(gaussians())


def tiny_shortcut() -> ConfigDict:
    """A loss without a derivative, at a small size, for tests."""
    config = _small(gaussians())
    config.method = spec("flow_map")
    config.rule, config.two_times = spec("progressive.shortcut", steps=8), spec("dyadic", steps=8, same=0.5)
    return config


def tiny_consistency() -> ConfigDict:
    """A grid that grows with the updates, on noise levels, at a small size, for tests."""
    config = _small(gaussians())
    config.method = spec("flow_map", gamma=1.0, steps=2)
    config.target = spec("V")
    config.rule, config.two_times = spec("progressive.consistency"), spec("consistency", total=40, last=20)
    return config


VARIANTS = dict(gaussians=gaussians, adaptive=adaptive, flow=flow, taught=taught, digits_teacher=digits_teacher)
VARIANTS |= {f"digits_{name}": (lambda name=name: _digits(name)) for name in LOSSES if name != "halved"}
VARIANTS |= {f"taught_{name}": (lambda name=name: _taught(name)) for name in LOSSES if name != "pixel"}
VARIANTS |= {f"mnist_{name}": (lambda name=name: _mnist(name)) for name in ("improved", "meanflow", "shortcut")}
VARIANTS |= {f"mnist_taught_{name}": (lambda name=name: _mnist_taught(name)) for name in ("lagrangian", "shortcut")}
VARIANTS |= dict(tiny=tiny, tiny_shortcut=tiny_shortcut, tiny_consistency=tiny_consistency)
