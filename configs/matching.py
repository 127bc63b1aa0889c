"""Generators of one evaluation that follow a field, estimated in four ways: a critic, energies, scores, a kernel.

    python -m diffjax.main --config=configs/matching.py            # a critic in pairs, eight Gaussians
    python -m diffjax.main --config=configs/matching.py:scores     # two denoisers, learned together
    python -m diffjax.main --config=configs/matching.py:kernel     # nothing learned: the batch is the field
    python -m diffjax.main --config=configs/matching.py:digits     # digits by a critic; also digits_kernel, ...
    python -m diffjax.main --config=configs/matching.py:tiny       # every part, small: for tests

Scores of a finished run: all networks begin with its parameters, and the one of data stays as it is:

    python -m diffjax.main --config=configs/matching.py:teacher --workdir=runs/teacher
    python -m diffjax.main --config=configs/matching.py:distilled

Options of the method: critics=3 turns of who learns for one of the generator's, or simultaneous=True; eps; of a
classifier h (kl, gan, saturating, forward_kl, arcsinh; `losses.matching.H`), pairs, r1, r2, between and noised; of
scores and energies scale and span; of a kernel widths, kind and scale. `diffjax.methods.matching` says them all.

Expected of 4000 points on a ring of radius sqrt 2, the share within 0.3 of a mode and the modes found, as
`experiments/matching/gaussians.py` counts (data: 0.99, 8; each about a minute of CPU time):
the critic 0.95, 8; kernel 0.92, 8; energies 0.86, 8; distilled 0.84, 8; scores 0.74, 8. Of digits the gate's Frechet
distance (bound 8.9; two to five minutes): the critic 10.9, distilled 15.7 of a teacher that has 8.77, kernel 39.6 and
energies 97.1, worse than a Gaussian fit's 63.7. All fail it.
"""

from ml_collections import ConfigDict

from diffjax.config import recipe, spec

WIDTH = 64


def _players(name: str, **options: object) -> ConfigDict:
    config = recipe()
    config.data = spec("eight_gaussians")
    config.schedule = spec("Rectified")
    config.target = spec("Velocity")
    config.generator = spec("MLP", width=WIDTH, depth=2, embedding="angle")
    config.method = spec(f"matching.{name}", **options)
    config.train.update(steps=4000, batch_size=256, steps_per_dispatch=50, log_every=200, sample_every=2000)
    config.learning_rate.update(schedule="cosine")
    config.ema = spec("warm_up", decays=(0.995,))
    config.checkpoint.every = 2000
    config.sample.update(dict(ema="0.995", chunk=1024))
    return config


def _rates(config: ConfigDict, **rates: float) -> ConfigDict:
    config.optimizer = {who: spec("adam", b1=0.0, learning_rate=rate) for who, rate in rates.items()}
    return config


def classifier() -> ConfigDict:
    """The default recipe: a critic of pairs, its slope penalised at data and at samples."""
    config = _players("classifier", pairs=True, r1=0.01, r2=0.01)
    config.critic = spec("Perceptron", shape=(), width=128, depth=2, weights="lecun")
    return _rates(config, critic=2e-3, generator=1e-3)


def scores() -> ConfigDict:
    """Two denoisers, two turns of theirs for one of the generator's."""
    config = _players("scores", critics=2)
    config.times = spec("stratified", t_min=1e-2)
    config.real = config.fake = spec("MLP", width=WIDTH, depth=2, embedding="angle")
    return _rates(config, real=2e-3, fake=2e-3, generator=5e-4)


def energies() -> ConfigDict:
    """Two energies, learned as the scores are."""
    config = _players("energies", critics=2)
    config.times = spec("stratified", t_min=1e-2)
    config.real = config.fake = spec("scalar.energy", of="MLP", width=WIDTH, depth=2, embedding="angle")
    return _rates(config, real=2e-3, fake=2e-3, generator=5e-4)


def kernel() -> ConfigDict:
    """Mean shift by a Gaussian kernel of two widths."""
    config = _players("kernel", widths=(0.2, 0.7))
    return _rates(config, generator=1e-3)


def distilled() -> ConfigDict:
    """The scores of a finished run of `teacher`, in runs/teacher, and of samples."""
    config = scores()
    config.train.start = "runs/teacher"
    del config.optimizer.real
    return config


def teacher() -> ConfigDict:
    """A denoiser of data, with which `scores` may begin."""
    config = _players("classifier")
    del config.method, config.generator
    config.model = spec("MLP", width=WIDTH, depth=2, embedding="angle")
    config.sampler = spec("multistep.adams", order=2)
    config.grid = spec("uniform", n=20, t_min=0.0)
    config.times = spec("stratified", t_min=1e-2)
    config.optimizer = spec("adam")
    config.learning_rate.peak = 2e-3
    return config


def _on_digits(config: ConfigDict, steps: int) -> ConfigDict:
    config.data = spec("digits")
    config.target.sigma_data = 0.5
    for who in [who for who in ("generator", "real", "fake", "model") if who in config]:
        config[who].width = 256
    config.train.update(steps=steps, batch_size=128, sample_every=steps)
    return config


def digits() -> ConfigDict:
    """Digits by a critic of pairs."""
    config = _on_digits(classifier(), 6000)
    config.method.r1 = config.method.r2 = 1.0
    config.critic.width = 256
    return _rates(config, critic=1e-3, generator=5e-4)


def digits_kernel() -> ConfigDict:
    """Digits by a Laplace kernel between pixels, each width's drift over its root mean square."""
    config = _on_digits(kernel(), 16000)
    config.method.update(widths=(1.0, 2.0, 4.0), kind="laplace", scale="rms")
    return config


def digits_teacher() -> ConfigDict:
    """A denoiser of digits, with which `digits_distilled` begins."""
    return _on_digits(teacher(), 5000)


def digits_distilled() -> ConfigDict:
    """Digits by the scores of a finished run of `digits_teacher`, in runs/digits_teacher, and of samples."""
    config = _on_digits(distilled(), 4000)
    config.train.start = "runs/digits_teacher"
    return config


def digits_energies() -> ConfigDict:
    """Digits by two energies."""
    config = _on_digits(energies(), 3000)
    for who in ("real", "fake"):
        config[who].sigma_data = 0.5
    return config


def tiny() -> ConfigDict:
    """Scores at a small size, for tests."""
    config = scores()
    config.data = spec("eight_gaussians", n=256, held_out=64)
    for who in ("generator", "real", "fake"):
        config[who].width = 8
    config.train.update(steps=40, batch_size=16, steps_per_dispatch=10, sample_every=40, log_every=10)
    config.checkpoint.every = 20
    config.eval.samples = 64
    return config


VARIANTS = dict(
    classifier=classifier,
    energies=energies,
    scores=scores,
    kernel=kernel,
    teacher=teacher,
    distilled=distilled,
    digits=digits,
    digits_kernel=digits_kernel,
    digits_teacher=digits_teacher,
    digits_distilled=digits_distilled,
    digits_energies=digits_energies,
    tiny=tiny,
)
