"""Fields that may change when a run goes on, and the rate that it then has: planned on the host, nothing is trained."""

import numpy as np
import pytest
from test_runs import SMALL

from diffjax import config as C
from diffjax import resume, runs
from diffjax.config import ConfigError
from diffjax.runs import settings as table

CONFIG = "configs/vpsde.py:tiny"
TINY = [*SMALL, "learning_rate.warmup_steps=0", "learning_rate.schedule=constant", "optimizer.name=sgd"]


def recipe(*overrides):
    return runs.load(CONFIG, [*TINY, *overrides])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("free", "train.log_every train.sample_every train.loggers train.nonfinite train.devices train.backend name"),
        ("free", "checkpoint.every checkpoint.keep eval.samples eval.time_bins sample.ema sample.label sample.chunk"),
        ("free", "sampler.name sampler.eta grid.n denoiser.clip guidance.scale data.path data.data_dir data.workers"),
        ("extending", "train.steps learning_rate.peak learning_rate.schedule learning_rate.warmup_steps"),
        ("fixed", "seed train.batch_size train.clip_norm train.label_dropout model.width optimizer.b1 ema.decays"),
        ("fixed", "data.name data.held_out schedule.name process.name target.name weight.name times.name method.name"),
    ],
)
def test_each_field_has_its_kind(kind, fields):
    assert {resume.Change(field, 0, 1).kind for field in fields.split()} == {kind}


def test_no_setting_is_without_a_kind_that_was_meant():
    """A new setting is fixed until somebody says otherwise, here."""
    homes = {table.home(field) for field in table.Settings._fields}
    fixed = {home for home in homes if resume.Change(home, 0, 1).kind == "fixed"}
    assert fixed == {"seed", "train.batch_size"}


def cosine(n, peak, steps):
    return peak * (1 + np.cos(np.pi * min(n / steps, 1))) / 2


def rates(config, ns):
    spec = config.learning_rate.to_dict()
    del spec["extend"]
    spec |= {"name": "sgd", "learning_rate": spec.pop("peak"), "plans": resume.plans_of(config)}
    rate = runs.build.optimizers.build_optimizer(spec, config.train.steps)[1]
    return [float(rate(n)) for n in ns]


NS = (0, 40, 59, 60, 61, 99, 100, 130, 199, 200, 250)
BEFORE = {n: cosine(n, 1e-3, 100) for n in NS if n < 60}


@pytest.mark.parametrize(
    ("rule", "then"),
    [
        ("stretch", lambda n: cosine(n, 1e-3, 200)),
        ("restart", lambda n: cosine(n - 60, 1e-3, 140)),
        ("hold", lambda n: cosine(n, 1e-3, 100)),
    ],
)
def test_a_decay_is_laid_over_the_new_steps_by_its_rule(rule, then):
    cosines = ("learning_rate.schedule=cosine", "learning_rate.peak=1e-3")
    saved = recipe(*cosines, "train.steps=100")
    asked = recipe(*cosines, "train.steps=200", f"learning_rate.extend={rule}")
    config = resume.joined(saved, asked, "w", 60, 60)
    np.testing.assert_allclose(rates(config, NS), [BEFORE.get(n, then(n)) for n in NS], rtol=1e-5, atol=1e-10)
    resume.check(saved, config, "w")
    assert resume.joined(config, asked, "w", 70, 70) == config  # the same command once more changes nothing


def test_changes_follow_each_other():
    """Cosine of 100, at 60 restarted to 200, at 150 held to 300, at 250 a constant of another peak."""
    cosines = ("learning_rate.schedule=cosine", "learning_rate.peak=1e-3")
    config = recipe(*cosines, "train.steps=100")
    for step, *asked in (
        (60, *cosines, "train.steps=200", "learning_rate.extend=restart"),
        (150, *cosines, "train.steps=300", "learning_rate.extend=hold"),
        (250, "learning_rate.schedule=constant", "learning_rate.peak=2e-3", "train.steps=300"),
        (280, "learning_rate.schedule=constant", "learning_rate.peak=2e-3", "train.steps=400"),
    ):
        config = resume.joined(config, recipe(*asked), "w", step, step)
        config = C.from_json(C.to_json(config))  # as the next start reads it
    wanted = lambda n: cosine(n, 1e-3, 100) if n < 60 else cosine(n - 60, 1e-3, 140) if n < 250 else 2e-3
    ns = (0, 59, 60, 130, 149, 150, 199, 200, 249, 250, 299, 390)
    np.testing.assert_allclose(rates(config, ns), [wanted(n) for n in ns], rtol=1e-5, atol=1e-10)


def test_a_rate_changes_at_the_updates_that_were_applied_not_at_the_steps():
    saved, asked = recipe("train.steps=100"), recipe("train.steps=100", "learning_rate.peak=5e-4")
    config = resume.joined(saved, asked, "w", 60, 52)  # 8 were skipped
    peak = saved.learning_rate.peak
    np.testing.assert_allclose(rates(config, (51, 52, 60)), [peak, 5e-4, 5e-4], rtol=1e-6)


def test_a_player_of_two_turns_counts_twice():
    saved, asked = recipe("train.steps=100"), recipe("train.steps=100", "learning_rate.peak=5e-4")
    plans = resume.plans_of(resume.joined(saved, asked, "w", 60, 60), turns=2, peak=0.1)
    assert [(p["begins"], p["ends"], p["until"], p["peak"]) for p in plans] == [(0, 200, 120, 0.1), (0, 200, None, 0.1)]


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (
            ["train.steps=200", "learning_rate.schedule=cosine"],
            r"--config\.learning_rate\.extend=stretch .* restart .* h",
        ),
        (["train.steps=200", "learning_rate.extend=strech"], "nearest is 'stretch'"),
        (["learning_rate.peak=1e-2", "learning_rate.extend=hold"], "'hold', which keeps the rate as it was"),
        (["train.steps=50"], "train.steps is 50, but w is at step 60: give as many or more"),
        (["train.batch_size=16"], r"another config \(train.batch_size: 8 -> 16\), which is fixed .*train\.carry"),
        (["model.width=16", "train.steps=200"], r"model.width: 8 -> 16"),
    ],
)
def test_what_cannot_be_is_one_line(asked, match):
    with pytest.raises(ConfigError, match=match) as raised:
        resume.joined(recipe("train.steps=100"), recipe("train.steps=100", *asked), "w", 60, 60)
    assert "\n" not in str(raised.value)


def test_braces_in_a_workdir_stay_what_they_are():
    with pytest.raises(ConfigError, match=r"^\{a\} holds .* --config\.train\.start=\{a\} "):
        resume.joined(recipe(), recipe("seed=1"), "{a}", 5, 5)
