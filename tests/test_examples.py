"""Methods of real numbers refuse tokens, and methods of tokens real numbers, before anything is traced."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import codecs, data, denoisers, editing, methods, models, processes, runs, schedules, standalone
from diffjax.config import ConfigError
from diffjax.method import Example, Method, Turn
from diffjax.methods import shapes
from diffjax.methods.examples import check_real
from diffjax.runs import run

TOKENS = data.arrays(np.arange(80, dtype=np.int32).reshape(20, 4) % 3)
POINTS = data.arrays(np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4))
SIGNS = codecs.Codec(lambda x: (x > 0).astype(jnp.int32), lambda u: u.astype(jnp.float32))
OTHERS = {Example, Method, Turn, methods.Condition}  # which are no parts of a method
PARTS = {vars(methods)[name] for name in vars(methods) if isinstance(vars(methods)[name], type)} - OTHERS
OF_TOKENS = {methods.Discrete, methods.Encoding, methods.Masked}


@pytest.mark.parametrize("parts", sorted(PARTS | {methods.compression.Compression}, key=lambda parts: parts.__name__))
def test_parts_of_every_method_say_which_examples_they_take(parts):
    """A method of real numbers that is added without the check would train on numbers of tokens and die later."""
    assert callable(parts.check_examples)
    assert (parts.check_examples is check_real) is (parts not in OF_TOKENS)


def untraceable(*args, **options):
    raise AssertionError("the network is asked for")


def test_a_method_of_real_numbers_refuses_tokens_before_its_network_is_asked():
    network = models.Network(untraceable, untraceable, reads=())
    method = methods.denoising(network, processes.Gaussian(schedules.VP()), denoisers.V())
    with pytest.raises(
        ConfigError,
        match=r"^The examples of arrays are tokens \(int32 of shape \(4,\)\), expected real numbers: the methods of "
        r"tokens are masked, discrete and encoded \(method.name=masked\); x.astype\(np.float32\) makes .*\.$",
    ):
        runs.Trainer(method, TOKENS, optimizer=optax.sgd(1e-3))
    check_real(None, POINTS)
    check_real(None, data.arrays(np.zeros((20, 4, 4, 1), np.uint8)))  # pixels, which are gathered as real numbers


def test_a_codec_of_the_other_kind_is_named():
    whole, real = data.latents(SIGNS, POINTS), data.latents(codecs.identity(), POINTS)
    with pytest.raises(ValueError, match=r"its codec makes whole codes: take .* data.codec, .* compression.kl\.$"):
        check_real(None, whole)
    tokens = methods.masked(models.of(models.TokenMLP(vocabulary=2, width=8, depth=1, size=4)), 2).parts
    tokens.check_examples(whole)
    with pytest.raises(
        ValueError,
        match=r"^The examples of latents of arrays are float32 of shape \(4,\), expected integers: tokens from 0 on; "
        r"its codec makes real codes: take the run of another as data.codec, such as one of compression.vq, fsq or .*",
    ):
        tokens.check_examples(real)


def test_an_operator_is_refused_by_a_run_of_codes_before_it_is_made_and_a_compiled_sampler_before_it_is_written():
    codes = SimpleNamespace(data=data.latents(codecs.identity(), POINTS))
    for asked in (lambda: run.Run.operator(codes, "of no name"), lambda: standalone.check(codes.data)):
        with pytest.raises(
            ConfigError, match=r"^This run is of codes, and a codec is no mean and scale: .* \(restoring"
        ):
            asked()
    for dataset in (POINTS, data.standardize(POINTS, "entries")):
        assert editing.looked_at(dataset) == (4,)


def test_examples_of_another_shape_say_which_option_follows_the_data():
    shapes.check_made("decoder", (12, 12, 1), (12, 12, 1))
    said = r"^The decoder makes examples of shape \(8, 8, 1\), expected \(12, 12, 3\), the data's\. In a config "
    with pytest.raises(ValueError, match=said + r"decoder.shape=data follows the data\.$"):
        shapes.check_made("decoder", (8, 8, 1), (12, 12, 3))
    with pytest.raises(ValueError, match=r"follows the data, and data.channels=1 reads images as grey ones\.$"):
        shapes.check_made("decoder", (12, 12, 1), (12, 12, 3))
    decoder = models.of(models.GridDecoder(shape=(8, 8, 1), channels=4))
    said = r"Got a code \(6, 6, 4\) to decode to shape=\(8, 8, 1\), which takes \(4, 4, c\): .*decoder.shape=data"
    with pytest.raises(ValueError, match=said):
        decoder.init(jax.random.key(0), jnp.zeros((6, 6, 4)), jnp.zeros(()))
