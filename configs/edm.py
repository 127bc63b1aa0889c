"""EDM (Karras et al. 2022): preconditioned denoising at log-normal noise levels, sampled by Heun on the rho grid.

    python -m diffjax.main --config=configs/edm.py           # scikit-learn's 1797 digits: minutes on 2 CPU cores
    python -m diffjax.main --config=configs/edm.py:tiny      # the same path, small: for tests, not for pictures
    python -m diffjax.main --config=configs/edm.py:cifar10   # the published recipe; needs the data and an accelerator

The digits keep power-function averages (Karras et al. 2024), stored along the run, of which any width is made later:

    python -m diffjax.main --mode=eval --workdir=runs/... --config.sample.ema=0.075

Other fields: configs/vpsde.py. Expected of the default: a pass of the gate in report.md;
docs/results.md has the figures and the commit they come from.
"""

from ml_collections import ConfigDict, config_dict

from diffjax.config import beside, spec

_base = beside(__file__, "vpsde.py")


def digits() -> ConfigDict:
    """The recipe at the size of the digits, whose pixels have standard deviation 0.75."""
    config = _base.digits()
    config.schedule = spec("EDM", t_max=80.0)
    config.target = spec("EDM", sigma_data=0.75)  # unit weight: lambda(sigma) of the paper
    config.times = spec("log_normal", mean=-1.2, std=1.2)
    config.ema = spec("power", widths=(0.05, 0.1))
    config.sampler = spec("heun.edm", churn=0.0)
    config.grid = spec("karras", n=18, rho=7.0, t_min=2e-3)
    config.sample.update(dict(chunk=64, ema="0.05"))
    config.checkpoint = ConfigDict(dict(every=500, keep=2, best=1, snapshot_every=100))
    return config


def tiny() -> ConfigDict:
    """Every part of the default, and the augmentation, at a small size, for tests."""
    config = digits()
    config.augment = spec("geometric", probability=0.12, transforms=("shift",))
    config.model = spec("UNet", channels=8, multipliers=(1, 1), attention=(4,), augment=9)
    config.train.update(dict(steps=40, batch_size=32, log_every=10, sample_every=20))
    config.learning_rate.warmup_steps = 5
    config.grid.n = 3
    config.checkpoint.update(dict(every=10, snapshot_every=4))
    config.sample.chunk = 16
    config.eval.samples = 300
    return config


def cifar10() -> ConfigDict:
    """The published unconditional CIFAR-10 recipe (appendix F): 200 M images in batches of 512, Heun in 35 evaluations.

    The U-Net is ours of the DDPM++ kind: it modulates its second norm by scale and shift where theirs adds a shift, and
    embeds the log-SNR where theirs embeds a quarter of log sigma.
    """
    config = digits()
    config.data = spec("tfds", dataset="cifar10")  # mirrored below, where the network is told
    config.target.sigma_data = 0.5
    config.augment = spec("geometric", probability=0.12)
    config.model = spec(
        "UNet",
        channels=128,
        multipliers=(2, 2, 2),
        blocks=4,
        attention=(16,),
        dropout=0.13,
        skip_scale=0.5**0.5,
        augment=9,
    )
    batch = 512
    config.learning_rate = ConfigDict(dict(peak=1e-3, schedule="constant", warmup_steps=10_000_000 // batch))
    config.ema = spec("half_life", updates=500_000 / batch, ramp=0.05)
    config.train.update(
        dict(
            steps=200_000_000 // batch // 10 * 10,
            batch_size=batch,
            clip_norm=float("inf"),
            steps_per_dispatch=10,
            log_every=100,
            sample_every=5000,
        )
    )
    config.sample.update(dict(chunk=256, ema="half_life"))
    config.checkpoint = ConfigDict(
        dict(every=5000, keep=2, best=1, snapshot_every=config_dict.placeholder(int))  # set ema.name=power to use it
    )
    return config


VARIANTS = {"digits": digits, "tiny": tiny, "cifar10": cifar10}
