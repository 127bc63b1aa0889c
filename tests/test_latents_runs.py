"""Runs of codecs and of their codes: the commands know neither; a run of codes draws where its codec's run is gone."""

import json
import shutil

import numpy as np
import pytest
from twice import assert_trains_and_resumes, judged

from diffjax import codecs, data, runs
from diffjax import main as command_line
from diffjax.config import ConfigError, build, spec, to_json
from diffjax.runs import run as opened


@pytest.mark.parametrize("name", ["tiny_vq", "tiny_fsq", "tiny_gumbel", "tiny_gan"])
def test_a_small_codec_builds(name):
    built = runs.build_run(runs.load(f"configs/latents.py:{name}"))
    assert (
        built.method.parts.bottleneck.codes
        == {"tiny_vq": 16, "tiny_fsq": 240, "tiny_gumbel": 16, "tiny_gan": None}[name]
    )


def test_a_weights_file_of_a_codec_is_a_coordinate_and_goes_along(tmp_path):
    """By the files of a real run that was not trained: opened, kept in a workdir, and found again by a card."""
    config = runs.load("configs/latents.py:tiny_fsq")
    with config.unlocked():
        config.method = spec("compression.fsq", levels=(3, 2))
        config.encoder = spec("Perceptron", shape=(4, 2), depth=0)
        config.decoder = spec("Perceptron", shape=(8, 8, 1), depth=0)
    built = runs.build_run(config)
    run = opened.of(built, opened.init_state(built))
    run.export(tmp_path / "first.safetensors")
    with pytest.raises(
        ValueError, match=r"^This needs examples of the data, which are not here: .* --config\.data\.of="
    ) as told:
        data.latents(tmp_path / "first.safetensors")
    assert "of= in Python, a data set, its name or spec" in str(told.value)
    made = data.latents(str(tmp_path / "first.safetensors"), of=spec("digits"))
    named = runs.load(
        "configs/latents.py:tiny_codes", [f"data.codec={tmp_path / 'first.safetensors'}", "data.of=digits"]
    )
    assert build(data, named.data).fingerprint == made.fingerprint
    with pytest.raises(
        ValueError,
        match=r"^The examples of latents of digits are tokens \(int32 of "
        r"shape \(4,\)\), expected real numbers: .* masked, discrete and encoded .*: take the run of anoth",
    ):
        runs.build_run(named)
    code = made.held_out.gather(np.arange(5)).x
    assert (code.dtype, made.shape, made.seen_shape) == (np.int32, (4,), (8, 8, 1))
    assert made.fingerprint != data.latents(codecs.identity(), built.data, scale=None).fingerprint
    assert data.keep(made, tmp_path) == data.keep(made, tmp_path) == ""
    gone = data.of_card(json.loads(json.dumps(data.card(made))), str(tmp_path / "data.json"), "it is gone")
    np.testing.assert_array_equal(gone.to_data(code), made.to_data(code))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "sampler.name=ancestral.ddim",
            r"\(--sampler\) is of a sampler, but the method of this run, compression.kl",
        ),
        ("grid.n=3", r"\(--nfe\) is of a grid, but .* draws without one: leave it out"),
        ("guidance.name=none", r"'guidance.name=none' is of a guidance, but .* draws without one: leave it out"),
        ("method.beta=1.0", r"would change a trained run; here only sampler, grid, .* can be set"),
    ],
)
def test_a_draw_of_a_codec_says_what_it_has_not(change, said, tmp_path):
    (tmp_path / "config.json").write_text(to_json(runs.load("configs/latents.py:tiny")))
    with pytest.raises(ConfigError, match=said):
        opened.read_config(tmp_path, [change])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_vq", "tiny_fsq", "tiny_gumbel", "tiny_gan"])
def test_a_codec_is_trained_and_says_what_its_codes_take(name, tmp_path):
    found = judged(f"configs/latents.py:{name}", tmp_path)
    error = found["reconstruction_error"]
    assert error["value"] > 0
    assert error["mixed"] != error["value"]
    assert found["codes"]["bits"] > 0
    assert "Frechet distance" in found["decoded"]
    assert (tmp_path / "figures" / "reconstructions.png").exists()


@pytest.mark.slow
def test_a_codec_is_resumed_to_the_byte(tmp_path, capsys):
    assert_trains_and_resumes("configs/latents.py:tiny", tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("tiny", "tiny_codes"), ("tiny_vq", "tiny_tokens")])
def test_codes_are_modelled_and_judged_in_pixels_and_their_run_outlives_the_codecs(first, second, tmp_path, capsys):
    codec, workdir = tmp_path / "codec", tmp_path / "codes"
    assert command_line.main([f"--config=configs/latents.py:{first}", f"--workdir={codec}"]) == 0
    args = [f"--config=configs/latents.py:{second}", f"--config.data.codec={codec}", f"--workdir={workdir}"]
    assert command_line.main(args) == 0
    found = json.loads((workdir / "eval.json").read_text())
    assert set(found["decoded"]) <= set(found["metrics"])
    run = runs.open(workdir)
    x = run.draw(3)
    assert x.shape == (3, 8, 8, 1)
    held_out = run.data.held_out.gather(np.arange(5))
    expected = codecs.of(runs.open(codec))
    back = [expected.decode(expected.encode(row)) for row in run.data.units.base.held_out.gather(np.arange(5)).x]
    np.testing.assert_allclose(run.data.to_data(held_out.x), back, atol=1e-4)
    run.export(workdir / "codes.safetensors")
    shutil.rmtree(codec)
    capsys.readouterr()
    for path in (workdir, workdir / "codes.safetensors"):
        np.testing.assert_array_equal(runs.open(path).draw(3), x)
    assert "the data are not here" in capsys.readouterr().out
    assert command_line.main(["--mode=likelihood", f"--workdir={workdir}"]) == 2
