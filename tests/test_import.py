"""What an import of the library brings with it, seen in fresh interpreters."""

import json
import pkgutil
import subprocess
import sys

import diffjax

CORE = ["types", "host", "schedules", "grids", "processes", "analytic", "denoisers", "couplings", "losses", "samplers"]
CORE += ["training", "ema", "parallel"]
HEAVY = ["tensorflow", "torch", "matplotlib", "sklearn", "tensorboardX", "wandb", "grain", "tensorflow_datasets", "PIL"]
HEAVY += ["diffrax", "equinox", "jaxtyping", "lineax", "optimistix"]  # of the extra ode
MODULES = sorted(m.name for m in pkgutil.walk_packages(diffjax.__path__, "diffjax.") if ".configs" not in m.name)

REPORT = """
import importlib, json, sys, time
import jax
jax_only, start = set(sys.modules), time.process_time()
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps([sorted({{m.split(".")[0] for m in set(sys.modules) - jax_only}}), time.process_time() - start]))
"""


def loaded(*names):
    """(top-level packages that these imports add to those of jax, CPU seconds)."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(names=names)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_itself_is_light():
    packages, seconds = loaded("diffjax")
    assert not {*HEAVY, "scipy", "flax", "orbax", "ml_collections"} & set(packages)
    assert seconds < 2


def test_the_core_brings_no_data_plotting_config_or_logging_package():
    packages, _ = loaded(*(f"diffjax.{name}" for name in CORE))
    assert "optax" in packages
    assert not {*HEAVY, "orbax", "ml_collections", "flax", "tqdm"} & set(packages)


def test_no_module_brings_the_optional_and_the_heavy():
    """Networks, data, checkpoints, commands and all: those packages are imported by the functions that use them."""
    assert {f"diffjax.{name}" for name in CORE} <= set(MODULES)
    assert not set(HEAVY) & set(loaded(*MODULES)[0])
