"""Side networks of a frozen run (kexue 9138): an unconditional run learns classes.

    python -m diffjax.main --config=configs/vpsde.py --config.target.name=V --workdir=runs/v    # the base: minutes
    python -m diffjax.main --config=configs/finetune.py --config.train.start=runs/v            # LoRA
    python -m diffjax.main --config=configs/finetune.py:adapters --config.train.start=runs/v
    python -m diffjax.main --config=configs/finetune.py:prefix --config.train.start=runs/v
    python -m diffjax.main --config=configs/finetune.py:ladder --config.train.start=runs/v
    python -m diffjax.main --config=configs/finetune.py:control --config.train.start=runs/v
    python -m diffjax.main --config=configs/finetune.py:edges --config.train.start=runs/v      # a control net of edges
    python -m diffjax.main --config=configs/finetune.py:label --config.train.start=runs/v      # the labels alone
    python -m diffjax.main --config=configs/finetune.py:whole --config.train.start=runs/v      # all parameters
    python -m diffjax.main --config=configs/finetune.py:reward --config.train.start=runs/v     # lighter digits, by LoRA

Every variant begins where the base stands, to the bit. `model.base` is the base's own network, as its run has it; what
`model.classes` says is told by the side. A base of patches: --config.model.base.name=DiT, in a run of `dit.py`. Minutes
each on 2 cores; `experiments/finetune` has what is trained, kept and computed. Other fields: configs/vpsde.py.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, spec

_guidance, _base = beside(__file__, "guidance.py"), beside(__file__, "vpsde.py")

SIDE = "^side/"


def sided(config: ConfigDict, name: str, steps: int = 1200, **options: object) -> ConfigDict:
    """A recipe whose network is a side at the network that it had, told its classes; the side alone is trained."""
    base = config.model.to_dict()
    classes = base.pop("classes", None)
    config.model = spec(f"side.{name}", base=base, classes=classes, **options)
    config.target = spec("V")
    config.train.only = SIDE
    config.train.update(dict(steps=steps, sample_every=steps // 2))
    return config


def lora() -> ConfigDict:
    """The default recipe: changes of rank 4 beside the kernels of blocks and attention."""
    return sided(_guidance.digits(), "lora", rank=4, where="(qkv|out|conv_0|conv_1)$")


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
    config = sided(_base.digits(), "lora", rank=4, where="(qkv|out|conv_0|conv_1)$")
    config.prepare = spec("reward", of="mean", beta=0.05)
    return config


def tiny() -> ConfigDict:
    """Every part of the default, at a small size, for tests; it starts from `vpsde.py:tiny` with target V."""
    config = sided(_guidance.tiny(), "lora", steps=40, rank=1, where="(qkv|out|conv_0|conv_1)$")
    config.train.sample_every = 20
    return config


VARIANTS = {
    "lora": lora,
    "adapters": adapters,
    "prefix": prefix,
    "ladder": ladder,
    "control": control,
    "edges": edges,
    "label": label,
    "whole": whole,
    "reward": reward,
    "tiny": tiny,
}
