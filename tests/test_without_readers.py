"""Without the extra `records`: what stays in files is refused in one line, and the default job does not need it."""

import sys

import numpy as np
import pytest

from diffjax import data, runs
from diffjax.config import ConfigError

BROUGHT = ("grain", "array_record", "importlib_resources")  # by the extra


@pytest.fixture
def no_readers(monkeypatch):
    """A None in sys.modules is an import that fails."""
    for name in BROUGHT:
        monkeypatch.setitem(sys.modules, name, None)


def test_records_say_what_reads_them(no_readers):
    with pytest.raises(ValueError, match=r"grain is not installed: pip install 'diffjax\[records\]'"):
        data.Records(3, lambda at: {"x": np.zeros((len(at), 2))})


def test_a_prepared_set_says_what_reads_it(no_readers, tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").write_text("{}")
    flags = ["data.name=tfds", "data.dataset=mnist", f"data.data_dir={tmp_path}"]
    with pytest.raises(ConfigError, match=r"grain, array_record, importlib_resources is not installed: pip install"):
        runs.build_run(runs.load("configs/vpsde.py:tiny", flags))


def test_the_default_job_needs_none_of_them(no_readers):
    assert runs.build_run(runs.load("configs/vpsde.py:tiny")).data.name
