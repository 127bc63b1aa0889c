"""Side networks of a frozen run (kexue 9138): an unconditional run learns classes.

    python -m diffjax.main --config=configs/vpsde.py --config.target.name=V --workdir=runs/v   # the base: minutes
    python -m diffjax.main --config=configs/finetune.py --config.train.start=runs/v            # LoRA

and in the place of `finetune.py`: `finetune.py:adapters`, `:prefix`, `:ladder`, `:control`, by class; `:label`, the
table of labels alone, `:whole`, all parameters, and the negative control `:shuffled`, LoRA told the labels of other
digits; `:edges`, a control net of edges, and its control `:shuffled_edges`; `:reward`, lighter digits by LoRA. Of other
bases:

    python -m diffjax.main --config=configs/dit.py --workdir=runs/dit
    python -m diffjax.main --config=configs/finetune.py:dit --config.train.start=runs/dit      # LoRA of a transformer
    python -m diffjax.main --config=configs/points.py --workdir=runs/points
    python -m diffjax.main --config=configs/finetune.py:points --config.train.start=runs/points   # a tilted mixture

Every variant begins where the base stands, to the bit. `model.base` is the base's own network, as its run has it; what
`model.classes` says is told by the side. `experiments/finetune` counts what they cost, and has what they reach: the
label asked for is read in 0.820 of the samples of LoRA (0.919 of `:dit`), 0.941 of the control net, 0.772 of the
ladder, 0.320 of adapters, 0.125 of prefixes, 0.991 of `:whole`, 0.125 of `:label` and 0.110 of `:shuffled`, where
chance is 0.1; edges of samples of `:edges` are off those given by 0.009 (mean square), of `:shuffled_edges` by 0.186.
`:reward` brings the mean grey from -0.389, that of the data, to -0.298, where p* has -0.292 and -0.295 as batches see
it, `:points` its points to a mixture in closed form: `experiments/finetune/reward.py` holds both against p*. Other
fields: configs/vpsde.py.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_base, _guidance = beside(__file__, "vpsde.py"), beside(__file__, "guidance.py")
_dit, _points = beside(__file__, "dit.py"), beside(__file__, "points.py")

SIDE = "^side/"
KERNELS = "/(qkv|out|conv_0|conv_1)$"  # of blocks and attention, not the network's last


def sided(config: ConfigDict, name: str, steps: int = 1200, **options: object) -> ConfigDict:
    """A recipe in target V whose network is a side at the one that it had, told its classes; that alone is trained."""
    base = config.model.to_dict()
    classes = base.pop("classes", None)
    config.model = spec(f"side.{name}", base=base, classes=classes, **options)
    config.target = spec("V")
    config.train.only = SIDE
    config.train.update(dict(steps=steps, sample_every=steps // 2))
    return config


def lora() -> ConfigDict:
    """The default recipe: changes of rank 4 beside the kernels of blocks and attention."""
    return sided(_guidance.digits(), "lora", rank=4, where=KERNELS)


def adapters() -> ConfigDict:
    """Perceptrons of 8 behind every block."""
    return sided(_guidance.digits(), "adapter", width=8)


def prefix() -> ConfigDict:
    """Eight keys and values beside those of every attention."""
    return sided(_guidance.digits(), "prefix", tokens=8)


def ladder() -> ConfigDict:
    """A ladder of 8 channels, a rung for every block."""
    return sided(_guidance.digits(), "ladder", width=8)


def control() -> ConfigDict:
    """A trained copy of the encoder."""
    return sided(_guidance.digits(), "control")


def edges() -> ConfigDict:
    """A trained copy of the encoder that is shown the edges of the digit to draw, and no label."""
    config = sided(_base.digits(), "control", hint=1)
    config.data = spec("hinted", of="digits")
    return config


def shuffled_edges() -> ConfigDict:
    """The negative control of `edges`: training digits are shown the edges of others."""
    config = edges()
    config.data.shuffled = True
    return config


def shuffled() -> ConfigDict:
    """The negative control of classes: LoRA, told the labels of other digits."""
    config = lora()
    config.data = spec("shuffled", of="digits")
    return config


def dit() -> ConfigDict:
    """The default on the transformer of `dit.py`: changes beside the kernels of attention."""
    config = sided(_guidance.by_class(_dit.digits()), "lora", rank=4, where=KERNELS)
    config.grid.n = 100
    return config


def label() -> ConfigDict:
    """The table of labels alone: a LoRA of which nothing but that is trained."""
    config = sided(_guidance.digits(), "lora", rank=1, where="middle_1/conv_1$")
    config.train.only = "^side/label$"
    return config


def whole() -> ConfigDict:
    """All parameters, in a network with classes whose table of labels begins as a side's does, at zero."""
    config = _guidance.digits()
    config.target = spec("V")
    config.train.update(dict(steps=1200, sample_every=600))
    return config


def reward() -> ConfigDict:
    """Digits of more light: p(x) exp(mean(x) / beta) / Z, without classes."""
    config = sided(_base.digits(), "lora", rank=4, where=KERNELS)
    config.prepare = spec("reward", of="mean", beta=0.05)
    return config


def points() -> ConfigDict:
    """Eight Gaussians under the reward (x + y) / 2, without classes: p* is a mixture in closed form."""
    config = sided(_points.gaussians(), "lora", steps=3000, rank=8, where="^dense_")
    config.prepare = spec("reward", of="mean", beta=0.5)
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests; it starts from `vpsde.py:tiny` with target V."""
    return sided(_guidance.tiny(), "lora", steps=40, rank=1, where=KERNELS)


def tiny_adapters() -> ConfigDict:
    """`adapters` at a small size; all these start where `tiny` does."""
    return sided(_guidance.tiny(), "adapter", steps=40, width=2)


def tiny_prefix() -> ConfigDict:
    """`prefix` at a small size."""
    return sided(_guidance.tiny(), "prefix", steps=40, tokens=2)


def tiny_ladder() -> ConfigDict:
    """`ladder` at a small size."""
    return sided(_guidance.tiny(), "ladder", steps=40, width=4)


def tiny_control() -> ConfigDict:
    """`control` at a small size."""
    return sided(_guidance.tiny(), "control", steps=40)


def tiny_edges() -> ConfigDict:
    """`edges` at a small size."""
    config = sided(_base.tiny(), "control", steps=40, hint=1)
    config.data = spec("hinted", of="digits")
    return config


VARIANTS = {
    "lora": lora,
    "adapters": adapters,
    "prefix": prefix,
    "ladder": ladder,
    "control": control,
    "edges": edges,
    "shuffled_edges": shuffled_edges,
    "shuffled": shuffled,
    "dit": dit,
    "label": label,
    "whole": whole,
    "reward": reward,
    "points": points,
    "tiny": tiny,
    "tiny_adapters": tiny_adapters,
    "tiny_prefix": tiny_prefix,
    "tiny_ladder": tiny_ladder,
    "tiny_control": tiny_control,
    "tiny_edges": tiny_edges,
}
