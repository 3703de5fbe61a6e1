"""A finished run's adapter, judged anew by more or other questions:

    python scripts/judge.py runs/first_look/ffn-smollm2-kjv_style-s0-b766376c dataset.options.eval_rows=438

Words are settings below `dataset` and `evaluation`; nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main(run: str, words: list[str]) -> None:
    """Print the metrics of the run's adapter on what the words name."""
    import yaml
    from peft import PeftModel
    from rich.console import Console

    from lorascope.cli.cmd_runs import find_run
    from lorascope.config.schema import RunConfig, from_dict
    from lorascope.console import Bar, hush
    from lorascope.evaluation.measure import measure_of
    from lorascope.records.record import RunRecord
    from lorascope.records.store import ADAPTER
    from lorascope.run_reporter import show_metrics
    from lorascope.session import Session

    hush()
    found: tuple[RunRecord, Path] = find_run(run)
    record, folder = found
    settings = record.config
    for word in words:
        key, _, value = word.partition("=")
        *groups, last = key.split(".")
        if groups[:1] not in (["dataset"], ["evaluation"]):
            raise SystemExit(f"{word}: only dataset.… and evaluation.… can be others than the run's.")
        place: Any = settings
        for group in groups:
            place = place[group]
        place[last] = yaml.safe_load(value)
    config = from_dict(RunConfig, settings)
    out = Console()
    inputs = Session(lasting=False).inputs(config, out)
    measure = measure_of(config, inputs.base, inputs.rows, inputs.evaluation)
    with Bar(out, "base", measure.steps) as bar:
        before = measure.base(inputs.base.model, bar.step, measure.remembered_at(config, inputs.base.revision))
    model = PeftModel.from_pretrained(inputs.base.model, str(folder / ADAPTER)).eval()
    with Bar(out, "adapter", measure.steps) as bar:
        after = measure.adapted(model, bar.step)
    show_metrics(out, measure.entries(before, after))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2:])
