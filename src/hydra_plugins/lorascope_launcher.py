"""The launcher of `-m` on one machine: plan all runs, then make them one after another."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import open_dict

from lorascope.compat import basic_launcher, job_error

if TYPE_CHECKING:
    from lorascope.config.schema import RunConfig

BasicLauncher: Any = basic_launcher()


NODE = {"_target_": "hydra_plugins.lorascope_launcher.SharedBaseLauncher"}
ConfigStore.instance().store(group="hydra/launcher", name="shared_base", node=NODE, provider="lorascope")


def job_config(plugin: Any, overrides: Sequence[str]) -> "RunConfig":
    """The config that a job of Hydra's launcher or sweeper gets with these overrides."""
    from lorascope.compose import config_folders, to_run_config

    composed = plugin.hydra_context.config_loader.load_sweep_config(plugin.config, list(overrides))
    hydra = composed.hydra
    with open_dict(composed):
        del composed["hydra"]
    return to_run_config(composed, hydra.runtime.choices, config_folders(hydra))


class SharedBaseLauncher(BasicLauncher):
    """Hydra's own launcher, with a plan of all jobs before the first."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Show what will be run, then run it."""
        from lorascope.errors import LorascopeError, RunError
        from lorascope.planning.plan_view import show_jobs
        from lorascope.planning.run_plan import Job

        jobs = []
        everywhere = set.intersection(*map(set, job_overrides))
        for overrides in job_overrides:
            own = " ".join(one for one in overrides if one not in everywhere) or "as it is"
            try:
                jobs.append(Job(own, job_config(self, overrides)))
            except LorascopeError as error:
                jobs.append(Job(own, None, error))
        if len(jobs) > 1:
            show_jobs(jobs)
        if self.config.execution != "processes":
            return super().launch(job_overrides, initial_job_idx)
        results = [self._in_a_process(overrides) for overrides in job_overrides]
        pairs = zip(jobs, results, strict=True)
        failed = [f"{job.overrides}: {job_error(one)}" for job, one in pairs if one.status is JobStatus.FAILED]
        if failed and not self.config.study.arms:  # a study reports its runs itself
            what = "\n    ".join([f"{len(failed)} of {len(jobs)} runs did not end well:", *failed])
            raise RunError("execution=processes", what, "Each has printed its own error above.")
        return results

    def _in_a_process(self, overrides: Sequence[str]) -> JobReturn:
        """Make one run as a command of its own would."""
        hydra = self.config.hydra
        own = [override for override in hydra.overrides.hydra if not override.startswith("hydra.mode=")]
        sources = [source for source in hydra.runtime.config_sources if source.provider == "command-line"]
        folders = [argument for source in sources for argument in ("--config-dir", source.path)]
        group = self.config.logger.group or Path(hydra.sweep.dir).name
        arguments = [*folders, *overrides, *own, "hydra.mode=RUN", f"logger.group={group}"]
        code = "from lorascope.cli.main import train; train()"
        process = subprocess.Popen([sys.executable, "-c", code, *arguments])
        try:
            status = process.wait()
        except KeyboardInterrupt:  # or another signal: a terminal sends it to the run too, a scheduler does not
            process.terminate()
            process.wait()
            raise
        result = JobReturn(overrides=overrides, status=JobStatus.FAILED if status else JobStatus.COMPLETED)
        if status:
            result.return_value = ChildProcessError(f"its process ended with exit code {status}")
        return result
