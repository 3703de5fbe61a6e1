"""The sweeper of `-m`: a study where there are arms, else Hydra's own product of all choices."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus

from lorascope.compat import basic_sweeper, job_error
from lorascope.config.text_values import keep_text
from lorascope.errors import ConfigError, first_line

if TYPE_CHECKING:
    from lorascope.config.schema import RunConfig

BasicSweeper: Any = basic_sweeper()


@dataclass
class StudyConf:
    """Hydra's config of the sweeper."""

    _target_: str = "hydra_plugins.lorascope_sweeper.StudySweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudyConf, provider="lorascope")


class StudySweeper(BasicSweeper):
    """Passes batches of a study's runs to any launcher."""

    def sweep(self, arguments: list[str]) -> Any:
        """Make the study, or without arms the sweep."""
        if not self.config.study.arms:
            return super().sweep(arguments)
        from lorascope.study.runner import conduct

        self._refuse(arguments)
        self.arguments = arguments
        self.jobs = 0
        conduct(self.compose([]), self)
        return []

    @property
    def one_by_one(self) -> bool:
        """Whether the launcher makes one run after another in any case."""
        from hydra_plugins.lorascope_launcher import SharedBaseLauncher  # Hydra may reload its plugins

        return isinstance(self.launcher, SharedBaseLauncher)

    def compose(self, overrides: Sequence[str]) -> "RunConfig":
        """The config of the command's overrides and these."""
        from hydra_plugins.lorascope_launcher import job_config

        return job_config(self, [*self.arguments, *keep_text(overrides)])

    def launch(self, batch: Sequence[Sequence[str]]) -> list[str | None]:
        """Make the runs; the reason for each that failed."""
        jobs = [[*self.arguments, *keep_text(overrides)] for overrides in batch]
        results = self.launcher.launch(jobs, initial_job_idx=self.jobs)
        self.jobs += len(jobs)
        return [None if one.status is JobStatus.COMPLETED else first_line(job_error(one)) for one in results]

    def _refuse(self, arguments: list[str]) -> None:
        """Refuse sweeps and settings that the study makes itself."""
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        for one in parser.parse_overrides(arguments):
            key = one.get_key_element().lstrip("+~")
            if one.is_sweep_override():
                remedy = "Give it one value, or make arms of it: study.arms='{NAME: \"WORDS\", …}'"
                raise ConfigError(key, "is swept, and a study sweeps its own arms, rates and seeds.", remedy)
            if key in ("target", "seed"):
                remedy = "Set study.arms or study.seeds, or leave the study out."
                raise ConfigError(key, "is set by the study for each of its runs.", remedy)
