import importlib
import importlib.util
import os
import subprocess
import sys

REPO = ""  # the repository's address, as `git clone` takes it
if importlib.util.find_spec("diffjax") is None:
    if not REPO:
        raise SystemExit(
            "diffjax is not installed: give its repository's address as REPO, or pip install a clone of it"
        )
    subprocess.run(["git", "clone", "--depth=1", REPO, "diffjax-clone"], check=True)
    kept = ["-c", "diffjax-clone/constraints/colab.txt"]  # the jax that is here stays as it is
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *kept, "./diffjax-clone[ode]"], check=True)
    importlib.invalidate_caches()
FAST = os.environ.get("DIFFJAX_NOTEBOOK") == "fast"  # a small form, for tests
