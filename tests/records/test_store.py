import json
import multiprocessing

import pytest
import torch

from lorascope.compose import compose
from lorascope.config.machine import resolve
from lorascope.config.schema import RunConfig
from lorascope.errors import RunError
from lorascope.records.record import RunRecord, Status, read_record, write_record
from lorascope.records.store import find_done, is_at_work, load_runs, open_run, run_folder


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return resolve(compose(["device=cpu", f"runs_dir={tmp_path / 'runs'}"]))


def finish(config: RunConfig) -> RunRecord:
    with open_run(config) as (record, _):
        record.metrics = {"eval_loss": {"value": 1.5, "base": 3.0, "unit": "nats/token", "better": "lower"}}
    return record


def test_a_run_that_ends_is_done_and_found(config):
    assert find_done(config) is None
    with open_run(config) as (record, folder):
        assert read_record(folder).status is Status.running
        record.plan = {"trainable_parameters": 5}
    found = find_done(config)
    assert found is not None
    assert found.status is Status.done
    assert found.plan == {"trainable_parameters": 5}
    assert found.finished >= found.started


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), Status.failed),
        (KeyboardInterrupt(), Status.preempted),
    ],
)
def test_a_run_that_dies_says_how_and_is_not_done(config, error, status):
    with pytest.raises(type(error)), open_run(config):
        raise error
    record = read_record(run_folder(config))
    assert record.status is status
    assert type(error).__name__ in record.error
    assert find_done(config) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_a_status_of_its_own_and_says_what_to_try(config, error):
    with pytest.raises(RunError, match=r"out of memory(.|\n)*train.batch_size"), open_run(config):
        raise error
    assert read_record(run_folder(config)).status is Status.oom


def test_a_run_that_was_written_as_done_stays_done_whatever_comes_after(config):
    with pytest.raises(KeyboardInterrupt), open_run(config) as (record, _):  # noqa: PT012
        record.status = Status.done
        raise KeyboardInterrupt
    assert find_done(config) is not None


def test_starting_again_empties_the_folder_of_the_cut_run_alone(config):
    with pytest.raises(ValueError, match="cut"), open_run(config) as (_, folder):  # noqa: PT012
        (folder / "adapter").mkdir()
        (folder / "adapter" / "old").touch()
        (folder / "history.jsonl").write_text("old")
        (folder / "notes.txt").write_text("the user's own")
        raise ValueError("cut")
    with open_run(config) as (_, folder):
        assert not (folder / "adapter").exists()
        assert not (folder / "history.jsonl").exists()
        assert (folder / "notes.txt").read_text() == "the user's own"


def hold(config: RunConfig, held, done) -> None:
    with open_run(config):
        held.set()
        done.wait(20)


def test_two_processes_never_share_a_run(config):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(config, held, done))
    other.start()
    try:
        assert held.wait(60)
        assert is_at_work(run_folder(config))
        with pytest.raises(RunError, match="another process is at work") as refused, open_run(config):
            pass
        assert refused.value.remedy == f"Wait for it, or stop process {other.pid}."
    finally:
        done.set()
        other.join(20)
    assert find_done(config) is not None  # the refused one changed nothing


def test_a_killed_process_leaves_no_lock(config):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(config, held, done))
    other.start()
    assert held.wait(60)
    other.kill()
    other.join()
    assert not is_at_work(run_folder(config))
    assert read_record(run_folder(config)).status is Status.running
    assert find_done(config) is None
    finish(config)
    assert find_done(config) is not None


def test_a_record_is_whole_or_the_one_before(config, monkeypatch):
    from pathlib import Path

    record = finish(config)
    folder = run_folder(config)
    before = (folder / "run.json").read_text()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    record.status = Status.failed
    with pytest.raises(RunError, match="No space left"):
        write_record(record, folder)
    assert (folder / "run.json").read_text() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 1}', '{"schema_version": "x"}', "null"])
def test_a_damaged_record_is_told_and_does_not_hide_the_others(config, text):
    finish(config)
    broken = run_folder(config).parent / "broken"
    broken.mkdir()
    (broken / "run.json").write_text(text)
    records, damaged = load_runs(config.runs_dir)
    assert len(records) == 1
    assert len(damaged) == 1
    assert str(broken) in str(damaged[0])


@pytest.mark.parametrize("part", ["plan", "metrics", "timing", "memory", "data", "fingerprint", "environment"])
def test_a_record_with_a_part_of_another_kind_is_damaged(config, part):
    finish(config)
    path = run_folder(config) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: []}))
    records, damaged = load_runs(config.runs_dir)
    assert records == []
    assert f"{part} must be an object (got [])" in str(damaged[0])


def test_a_record_of_a_later_version_is_told(config):
    finish(config)
    path = run_folder(config) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    assert "schema version 99" in str(load_runs(config.runs_dir)[1][0])


def test_a_record_that_is_read_and_written_keeps_its_bytes(config):
    finish(config)
    path = run_folder(config) / "run.json"
    odd = {"metrics": {"eval_loss": {"value": float("nan"), "base": 2, "better": None}}, "timing": {"steps": 3}}
    path.write_text(json.dumps(json.loads(path.read_text()) | odd, indent=1) + "\n")
    before = path.read_bytes()
    write_record(read_record(path.parent), path.parent)
    assert path.read_bytes() == before


def test_fields_that_a_later_lorascope_added_are_read_over(config):
    finish(config)
    path = run_folder(config) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"something_new": 1}))
    assert len(load_runs(config.runs_dir)[0]) == 1


def test_another_run_in_the_folder_is_refused(config):
    finish(config)
    path = run_folder(config) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_hash": "0" * 64}))
    with pytest.raises(RunError, match="other settings"):
        find_done(config)


@pytest.mark.parametrize("place", ["/proc/lorascope", "/dev/null/runs"])
def test_a_runs_dir_that_cannot_be_written_is_named(place):
    config = resolve(compose(["device=cpu", f"runs_dir={place}"]))
    with pytest.raises(RunError, match=rf"runs_dir={place} cannot be written"), open_run(config):
        pass
