"""A record as a run leaves it, without the run."""

from lorascope.records.record import EVAL_LOSS, RunRecord, Status


def record(target: str, parameters: int, loss: float | None, *, seed: int = 0, fingerprint: str = "f") -> RunRecord:
    return RunRecord(
        run_id="12345678",
        run_hash="1" * 64,
        name=f"{target}-s{seed}-{fingerprint}",
        status=Status.failed if loss is None else Status.done,
        error=None if loss is not None else "ValueError: no\nmore",
        started="2026-01-01T00:00:00+00:00",
        config={
            "target": {"name": target}, "model": {"name": "tiny"}, "dataset": {"name": "airports"}, "seed": seed,
            "quantization": {"scheme": "none"}, "train": {"learning_rate": 1e-3},
        },
        plan={"trainable_parameters": parameters, "trainable_percent": 0.5, "modules": [{"rank": 4}, {"rank": 8}]},
        metrics={} if loss is None else {"eval_loss": EVAL_LOSS.entry(loss, 6.0)},
        timing={"tokens_per_second": 100.0, "total_seconds": 60.0},
        memory={"peak_bytes": 2**30},
        fingerprint={"hash": fingerprint},
    )  # fmt: skip
