"""What a run is: built from a config or from objects, trained in a workdir, opened again to draw from."""

from diffjax.runs.build import assemble as assemble
from diffjax.runs.build import build_run as build_run
from diffjax.runs.build import load as load
from diffjax.runs.run import Run as Run
from diffjax.runs.run import open as open
from diffjax.runs.settings import Settings as Settings
from diffjax.runs.trainer import Trainer as Trainer
from diffjax.signals import Stopped as Stopped
