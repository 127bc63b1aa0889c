"""One folder for each step in one directory: what is there, what a kill left, what is moved aside, what is deleted."""

import contextlib
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath  # Orbax's paths, for addresses such as gs://

from diffjax import disk

TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax writes a step under this suffix, and we delete one under it


class Folders:
    """The folders of the steps.

    Args:
        directory: holds them. A path, or an address known to Orbax.
        items: what a step's folder may hold, by how the names begin.

    Attributes:
        path: of the directory.
        local: whether it is a folder of this machine's, and no address.
    """

    def __init__(self, directory: str | os.PathLike[str], items: Sequence[str]):
        path = os.fspath(directory)
        self.local, self._items = "://" not in path, tuple(items)
        self.path: Any = epath.Path(os.path.abspath(path) if self.local else path)

    def make(self) -> None:
        """Makes the directory, where there is none."""
        self._make()

    def of(self, step: int) -> Any:
        """Gives the path of a step."""
        return self.path / str(step)

    def steps(self) -> list[int]:
        """Lists the steps, ascending; whatever else has another name is none.

        Raises:
            ValueError: where there is something else in the directory's place.
        """
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is no folder: move it away, and put the checkpoints there if you have them")
        found = [p for p in self.path.iterdir() if p.name.isdecimal() and p.name == str(int(p.name))]
        return sorted(int(p.name) for p in found if p.is_dir())

    def taken(self, step: int) -> bool:
        """Tells whether something stands in a step's place, be it a link to nothing."""
        return self._exists(self.of(step))

    def entries(self, step: int) -> list[str]:
        """Lists what a step consists of."""
        try:
            return [p.name for p in self.of(step).iterdir()]
        except FileNotFoundError:  # a run that is going on has deleted it meanwhile
            return []

    def sync(self, step: int) -> None:
        """Has the disk take all of a step, and its name.

        Raises:
            OSError: where it does not.
        """
        if self.local:
            disk.sync_tree(Path(self.of(step)))
            disk.sync_folder(Path(self.path))

    def delete(self, step: int) -> list[str]:
        """Deletes a step, under another name, so that a kill leaves no half of it; what is to be said if that fails."""
        place, gone = self.of(step), self.path / f"{step}{TEMPORARY}-deleted"
        try:
            (place.rename(gone) if self.local else place).rmtree()
        except OSError as error:
            return [f"{place} is no longer needed, but could not be deleted: {error}"]
        return []

    def set_aside(self, step: int) -> str:
        """Renames what stands where a step is to be saved; what is to be said of it."""
        place = self.of(step)
        names = (self.path / f"{step}.aside{n}" for n in itertools.count(1))
        aside = next(name for name in names if not self._exists(name))
        place.rename(aside)
        return f"{place} is no sound checkpoint: set aside as {aside.name}"

    def clear(self) -> None:
        """Deletes what killed saves left: temporary directories with our items and no others."""
        left = [p for p in self.path.iterdir() if re.fullmatch(rf"\d+{re.escape(TEMPORARY)}.*", p.name)]
        left = [p for p in left if p.is_dir() and all(q.name.startswith(self._items) for q in p.iterdir())]
        for path in left:
            path.rmtree()

    def _exists(self, path: Any) -> bool:
        return os.path.lexists(path) if self.local else path.exists()

    def _make(self) -> None:
        with contextlib.suppress(FileExistsError):  # a file, which `steps` refuses
            self.path.mkdir(parents=True, exist_ok=True)
        if self.local:
            disk.sync_folder(Path(self.path).parent)
