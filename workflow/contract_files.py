"""The files of a contract: which they are, what of them is taken up, and which are removed."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .experiment import Experiment
from .files import Options


@dataclass(frozen=True)
class ContractFiles:
    """Of one contract, in its experiment's folder and under its name."""

    experiment: Experiment
    options: Options

    @property
    def network(self) -> Path:
        """The result, with its mask."""
        return self.experiment.pruned_path

    @property
    def certificate(self) -> Path:
        return self._beside("_limits.json")

    @property
    def state(self) -> Path:
        """Of a search that is under way."""
        return self._beside("_search.ckpt")

    @property
    def trace(self) -> Path:
        return self._beside("_search.csv")

    @property
    def picture(self) -> Path:
        return self._beside("_search.png")

    @property
    def results(self) -> dict[Path, str]:
        """What is there at the end, and what each file holds."""
        return {
            self.network: "the sparse network",
            self.certificate: "limits, drops and bounds, settings",
            self.trace: "every round of the search",
            self.picture: "the same as a picture",
        }

    @property
    def begun(self) -> bool:
        """Whether the files are those of a search that this command goes on with."""
        return self._goes_on and self.state.exists()

    @property
    def finished(self) -> bool:
        """Whether the files are those of this command, and nothing is left to do."""
        return self._goes_on and not self.begun and self.certificate.exists()

    @property
    def _goes_on(self) -> bool:
        """Whether an earlier search of this name is taken up: not where --overwrite alone starts anew."""
        return self.options.resume or not self.options.overwrite

    def _beside(self, ending: str) -> Path:
        return self.experiment.dest / f"{self.experiment.name}{ending}"

    def stem(self, number: int | str) -> str:
        """Of the files of a round, which are gone at the end."""
        return f"{self.experiment.name}_round{number}"

    def kept(self, number: int) -> Path:
        """The network of a kept round."""
        return self.experiment.dest / f"{self.stem(number)}.pth"

    def remove_rounds(self, before: int | None = None, needed: Iterable[int] = ()) -> None:
        """Remove what rounds before this one left, None = all rounds, but for needed rounds' networks."""
        names = {self.kept(number).name for number in needed}
        stem = self.stem("")
        for path in self.experiment.dest.glob(f"{glob.escape(stem)}*"):
            number = re.match(r"(\d+)\.", path.name.removeprefix(stem))
            if number and (before is None or int(number[1]) < before) and path.name not in names:
                path.unlink(missing_ok=True)
