"""Codecs of MNIST (extra `mnist`), 28 x 28 to 7 x 7, and of emoji; models of their codes, judged in pixels.

    python -m diffjax.main --config=configs/latents.py --workdir=runs/kl               # real codes, 7 x 7 x 4
    python -m diffjax.main --config=configs/latents.py:codes                           # a DiT on them, by class
    python -m diffjax.main --config=configs/latents.py:kl_gan --workdir=runs/kl_gan    # the codec against an adversary
    python -m diffjax.main --config=configs/latents.py:vq --workdir=runs/vq            # whole codes: 256 vectors
    python -m diffjax.main --config=configs/latents.py:tokens                          # masked tokens, which they are
    python -m diffjax.main --config=configs/latents.py:fsq --workdir=runs/fsq          # whole codes: levels 8, 6, 5
    python -m diffjax.main --config=configs/latents.py:fsq_tokens
    python -m diffjax.main --config=configs/latents.py:emoji --config.data.path=emoji.zip --workdir=runs/emoji
    python -m diffjax.main --config=configs/latents.py:emoji_vq --config.data.path=emoji.zip --workdir=runs/emoji_vq
    python -m diffjax.main --config=configs/latents.py:tiny                            # a codec, small: for tests

`codes`, `tokens` and `fsq_tokens` read the runs of those names (`--config.data.codec=...` another, or its weights
file), `kl_gan` begins with runs/kl (train.start), `vq_gan` with runs/vq_plain, of `vq_plain`; `gumbel` draws whole
codes by logits. `tiny_vq`, `tiny_fsq`, `tiny_gumbel` and `tiny_gan` are small codecs too, `tiny_codes` and
`tiny_tokens` models of the codes of two of them. The DiT of `codes` on pixels is configs/mnist.py.

report.md of a codec has the squared error of held-out examples beside PCA of as many numbers and decoded mixed codes,
what a code takes in bits, and the gate's numbers of decoded training examples, which the report of a model of codes
has beside its own. Samples of a codec alone are decoded codes drawn place by place, and fail the gate. Measured: the
codec of real codes has a squared error of 0.00885 (PCA 0.01101), decoded a Frechet distance of 12.5 (ff88a9c, 328 s of
CPU time), `kl_gan` 0.01006 and 11.4, `vq` 0.01119 and 9.5 (399 s), `fsq` 0.01360 and 12.4, `gumbel` 0.01847 and 17.3
(4af2863, 172 to 281 s); samples of `codes` have 36.0 (f35f2a2, 738 s), of `tokens` and `fsq_tokens` 129 and 125
(3ff0d19, 533 and 514 s: too few steps). docs/results.md has the rest.
"""

from ml_collections import ConfigDict

from diffjax.config import beside, recipe, spec

_base, _mnist = beside(__file__, "vpsde.py"), beside(__file__, "mnist.py")


def kl() -> ConfigDict:
    """The default recipe: L1 and a KL of small weight."""
    config = recipe()
    config.data = spec("mnist")
    config.method = spec("compression.kl", beta=1e-6)
    config.encoder = spec("GridEncoder", features=8, patch=2, channels=24)
    config.decoder = spec("GridDecoder", shape=(28, 28, 1), patch=2, channels=24)
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine"))
    config.train.update(dict(steps=4000, batch_size=32, sample_every=4000))
    config.checkpoint.every = 2000
    config.eval.samples = 512
    return config


def vq() -> ConfigDict:
    """A table of 256 vectors of 8 entries, that follows running means."""
    config = kl()
    config.method = spec("compression.vq", codes=256)
    return config


def fsq() -> ConfigDict:
    """240 codes of three rounded channels."""
    config = kl()
    config.method = spec("compression.fsq", levels=(8, 6, 5))
    config.encoder.features = 3
    return config


def gumbel() -> ConfigDict:
    """256 vectors, each place's drawn by logits, the relaxed choice on the way back alone."""
    config = kl()
    config.method = spec("compression.gumbel", codes=256)
    config.encoder.features = 256
    return config


def vq_plain() -> ConfigDict:
    """`vq` with a table that a gradient moves: what `vq_gan` begins with."""
    config = vq()
    config.method.decay = None
    return config


def kl_gan() -> ConfigDict:
    """The default against a critic of pixels, from where runs/kl ended."""
    config = kl()
    config.method = spec("compression.kl_gan", beta=1e-6, r1=0.1, factor=0.5)
    config.critic = spec("Encoder", shape=(), channels=16, multipliers=(1, 2, 2))
    adam = lambda rate: spec("adam", b1=0.5, learning_rate=rate)
    config.optimizer = ConfigDict(dict(codec=adam(5e-4), critic=adam(5e-4)))
    config.train.update(dict(start="runs/kl", steps=400, batch_size=32, sample_every=400))
    config.checkpoint.every = 400
    return config


def vq_gan() -> ConfigDict:
    """`vq_plain` against a critic of pixels, from where runs/vq_plain ended."""
    config = kl_gan()
    config.method = spec("compression.vq_gan", codes=256, r1=0.1, factor=0.5)
    config.encoder.features = 8
    config.train.start = "runs/vq_plain"
    return config


def emoji() -> ConfigDict:
    """The default on emoji of configs/captioned.py, 32 x 32 in colour to 8 x 8 x 4."""
    return _emoji(kl())


def emoji_vq() -> ConfigDict:
    """`vq` on emoji: 512 vectors at 64 places."""
    config = _emoji(vq())
    config.method.codes = 512
    return config


def _emoji(config: ConfigDict) -> ConfigDict:
    config.data = spec("captioned", path="", size=32, background=127)
    config.decoder.shape = (32, 32, 3)
    return config


def codes() -> ConfigDict:
    """The DiT of configs/mnist.py on 49 codes of runs/kl, where that has 49 patches."""
    config = _mnist.digits()
    config.data = spec("latents", codec="runs/kl")
    config.model.patch = 1
    config.train.update(dict(steps=4800, sample_every=4800))
    return config


def tokens() -> ConfigDict:
    """A transformer of masked tokens on the 49 codes of runs/vq, opened one at a time."""
    config = recipe()
    config.data = spec("latents", codec="runs/vq")
    config.method = spec("masked", vocabulary=256)
    config.model = spec("Transformer", vocabulary=256, width=64, depth=4, heads=4, dropout=0.1)
    config.learning_rate.update(dict(peak=2e-3, schedule="cosine", warmup_steps=100))
    config.train.update(dict(steps=4800, batch_size=32, steps_per_dispatch=20, log_every=200, sample_every=4800))
    config.checkpoint.every = 2400
    config.eval.samples = 512
    return config


def fsq_tokens() -> ConfigDict:
    """The recipe of `tokens` on the codes of runs/fsq."""
    config = tokens()
    config.data.codec = "runs/fsq"
    config.method.vocabulary = config.model.vocabulary = 240
    return config


def tiny() -> ConfigDict:
    """The default at a small size, on digits that every machine has, for tests."""
    config = kl()
    config.data = spec("digits")
    config.encoder.update(dict(patch=1, channels=4, multipliers=(1, 2)))
    config.decoder.update(dict(shape=(8, 8, 1), patch=1, channels=4, multipliers=(1, 2)))
    config.train.update(dict(steps=40, batch_size=16, log_every=10, sample_every=40))
    config.checkpoint.every = 20
    config.eval.samples = 300
    return config


def _tiny(of: ConfigDict) -> ConfigDict:
    """A codec's recipe with the sizes of `tiny`."""
    small = tiny()
    for group in ("data", "decoder", "train", "checkpoint", "eval"):
        of[group] = small[group]
    of.encoder.update({name: small.encoder[name] for name in ("patch", "channels", "multipliers")})
    return of


def tiny_vq() -> ConfigDict:
    """`vq` at a small size, for tests."""
    config = _tiny(vq())
    config.method.codes = 16
    return config


def tiny_fsq() -> ConfigDict:
    """`fsq` at a small size, for tests."""
    return _tiny(fsq())


def tiny_gumbel() -> ConfigDict:
    """`gumbel` at a small size, for tests."""
    config = _tiny(gumbel())
    config.method.codes = config.encoder.features = 16
    return config


def tiny_gan() -> ConfigDict:
    """`kl_gan` at a small size, for tests, from the beginning."""
    config = _tiny(kl_gan())
    config.critic.update(dict(channels=4, multipliers=(1, 2)))
    return config


def tiny_codes() -> ConfigDict:
    """`codes` at a small size, for tests; data.codec is a run of `tiny`."""
    config = _base.tiny()
    config.data = spec("latents", codec="runs/tiny")
    config.model = spec("DiT", depth=1, width=16, heads=2, patch=1)
    config.target = spec("V")
    return config


def tiny_tokens() -> ConfigDict:
    """`tokens` at a small size, for tests; data.codec is a run of `tiny_vq`."""
    config = tokens()
    config.data.codec = "runs/tiny_vq"
    config.method = spec("masked", vocabulary=16, steps=4)
    config.model = spec("Transformer", vocabulary=16, width=16, depth=1, heads=2)
    config.train.update(dict(steps=40, batch_size=16, steps_per_dispatch=1, log_every=10, sample_every=40))
    config.learning_rate.warmup_steps = 5
    config.checkpoint.every = 20
    config.eval.samples = 300
    return config


VARIANTS = dict(
    kl=kl,
    vq=vq,
    fsq=fsq,
    gumbel=gumbel,
    vq_plain=vq_plain,
    kl_gan=kl_gan,
    vq_gan=vq_gan,
    emoji=emoji,
    emoji_vq=emoji_vq,
    codes=codes,
    tokens=tokens,
    fsq_tokens=fsq_tokens,
    tiny=tiny,
    tiny_vq=tiny_vq,
    tiny_fsq=tiny_fsq,
    tiny_gumbel=tiny_gumbel,
    tiny_gan=tiny_gan,
    tiny_codes=tiny_codes,
    tiny_tokens=tiny_tokens,
)
