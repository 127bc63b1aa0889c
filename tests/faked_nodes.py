"""A sweep's nodes without XLA: what stands in for a run writes what one would."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np

from diffjax.sweeps import plan, work
from diffjax.training import NonFiniteError


def trains_by(train):
    """Makes what stands in the place of a node's Trainer."""
    return lambda node: contextlib.nullcontext(SimpleNamespace(train=lambda: train(node)))


def stand_in(monkeypatch):
    """Stands in for trainings and evaluations; gives the nodes done, and what a training raises, by seed."""
    done, errors = [], {}

    def train(node):
        done.append(node.key)
        if isinstance(error := errors.get(node.config.seed), BaseException):
            if isinstance(error, NonFiniteError):
                content = {"status": "nonfinite", "error": str(error), "step": 1}
                (node.folder / "results.json").write_text(json.dumps(content))
            raise error
        content = {"status": "trained", "step": node.config.train.steps, "minutes": 1.0}
        (node.folder / "results.json").write_text(json.dumps(content))

    def evaluate(node, measure):
        done.append(node.key)
        loss = (np.log10(node.config.learning_rate.peak) + 2.5) ** 2
        (node.folder / "eval.json").write_text(json.dumps({"loss": loss}))

    monkeypatch.setattr(work, "_trainer", trains_by(train))
    monkeypatch.setattr(work, "_evaluate", evaluate)
    monkeypatch.setattr(plan, "check", lambda plan: len(plan.nodes))
    return done, errors
