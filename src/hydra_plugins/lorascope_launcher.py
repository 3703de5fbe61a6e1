"""The launcher of `-m` on one machine: plan all runs, then make them one after another.

They share this process and one base session; with `execution=processes`, each has a process of its own.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

from lorascope.compat import basic_launcher, job_error

BasicLauncher: Any = basic_launcher()
ENTRY = "from lorascope.cli.main import train; train()"


@dataclass
class SharedBaseConf:
    """What Hydra makes the launcher of."""

    _target_: str = "hydra_plugins.lorascope_launcher.SharedBaseLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="shared_base", node=SharedBaseConf, provider="lorascope")


class ProcessFailedError(Exception):
    """A run's own process ended badly; what was wrong it has said itself."""


class SharedBaseLauncher(BasicLauncher):
    """Hydra's own launcher, with a look at all jobs before the first."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Show what will be run, then run it."""
        from lorascope.compose import config_folders, to_run_config
        from lorascope.errors import LorascopeError, RunError
        from lorascope.planning.sweep import Job, show_jobs

        jobs = []
        everywhere = set.intersection(*map(set, job_overrides))
        for overrides in job_overrides:
            own = " ".join(one for one in overrides if one not in everywhere) or "as it is"
            try:
                composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                hydra = composed.hydra
                with open_dict(composed):
                    del composed["hydra"]  # as a job sees it
                jobs.append(Job(own, to_run_config(composed, hydra.runtime.choices, config_folders(hydra))))
            except LorascopeError as error:
                jobs.append(Job(own, None, error))
        if len(jobs) > 1:
            show_jobs(jobs)
        if self.config.execution != "processes":
            return super().launch(job_overrides, initial_job_idx)
        results = [self._in_a_process(overrides) for overrides in job_overrides]
        bad = [(job.overrides, one) for job, one in zip(jobs, results, strict=True) if one.status is JobStatus.FAILED]
        if bad and not self.config.study.arms:  # a study tells of its runs itself
            told = "\n    ".join(f"{words}: {job_error(one)}" for words, one in bad)
            what = f"{len(bad)} of {len(jobs)} runs did not end well:\n    {told}"
            raise RunError("execution=processes", what, "What was wrong each has said above.")
        return results

    def _in_a_process(self, overrides: Sequence[str]) -> JobReturn:
        """Make one run as its own command would."""
        hydra = self.config.hydra
        own = [word for word in hydra.overrides.hydra if not word.startswith("hydra.mode=")]
        folders = [one.path for one in hydra.runtime.config_sources if one.provider == "command-line"]
        said = [word for folder in folders for word in ("--config-dir", folder)]
        group = self.config.logger.group or Path(hydra.sweep.dir).name
        words = [*overrides, *own, "hydra.mode=RUN", f"logger.group={group}"]
        process = subprocess.Popen([sys.executable, "-c", ENTRY, *said, *words])
        try:
            code = process.wait()
        except KeyboardInterrupt:  # or another signal; a terminal tells the run too, a scheduler this process alone
            process.terminate()
            process.wait()
            raise
        result = JobReturn(overrides=overrides, status=JobStatus.FAILED if code else JobStatus.COMPLETED)
        if code:
            result.return_value = ProcessFailedError(f"its process ended with exit code {code}")
        return result
