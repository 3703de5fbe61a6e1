"""A checkpoint is whole, or it is not there."""

import json
import shutil

import pytest

from lorascope.errors import RunError
from lorascope.training.checkpoints import MANIFEST, newest, read, thin_out, write


def fill(folder):
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "state.json").write_text("{}")


@pytest.fixture
def folder(tmp_path):
    for step in (3, 10):
        write(tmp_path, step, fill, {"loss": 1.5})
    return tmp_path


def test_the_newest_is_that_of_the_latest_step_not_of_the_longest_name(folder):
    latest = newest(folder, print)
    assert (latest.step, latest.meta) == (10, {"loss": 1.5})
    assert (latest.path / "weights").read_bytes() == b"w" * 1000


@pytest.mark.parametrize("name", ["weights", "state.json", MANIFEST])
@pytest.mark.parametrize("change", ["truncated", "emptied", "removed", "flipped"])
def test_a_broken_one_is_named_and_passed_over(folder, name, change):
    path = folder / "checkpoint-10" / name
    data = path.read_bytes()
    if change == "removed":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": data[: len(data) // 2], "emptied": b"", "flipped": bytes([data[0] ^ 1]) + data[1:]}[change]
        )
    told = []
    assert newest(folder, told.append).step == 3
    assert len(told) == 1
    assert told[0].startswith("checkpoint of step 10 passed over: ")
    assert name in told[0]


@pytest.mark.parametrize(
    "text",
    ["[]", "1", "null", '{"step": "x"}', '{"step": 1, "meta": [], "files": 3}', '{"files": {"weights": {}}}', "{"],
)
def test_a_manifest_by_another_hand_is_no_manifest(folder, text):
    (folder / "checkpoint-10" / MANIFEST).write_text(text)
    with pytest.raises(RunError):
        read(folder / "checkpoint-10")
    assert newest(folder, lambda told: None).step == 3


def test_what_a_kill_left_while_it_was_written_is_never_seen_and_goes(folder):
    shutil.copytree(folder / "checkpoint-10", folder / ".writing-12")
    (folder / "checkpoint-x").mkdir()
    assert newest(folder, print).step == 10
    assert not (folder / ".writing-12").exists()


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing_and_the_older_ones_stay(folder, error):
    def broken(place):
        fill(place)
        raise error

    with pytest.raises(type(error)):
        write(folder, 12, broken, {})
    assert {path.name for path in folder.iterdir()} == {"checkpoint-3", "checkpoint-10"}


def test_too_little_room_is_seen_before_anything_is_written(folder):
    with pytest.raises(OSError, match="bytes are free"):
        write(folder, 12, fill, {}, size=10**18)
    assert newest(folder, print).step == 10


def test_the_same_step_is_replaced_whole(folder):
    write(folder, 10, lambda place: (place / "other").write_text("x"), {"loss": 2})
    assert {path.name for path in (folder / "checkpoint-10").iterdir()} == {"other", MANIFEST}
    assert read(folder / "checkpoint-10").meta == {"loss": 2}


def test_the_manifest_has_every_file_with_its_hash(folder):
    import hashlib

    files = json.loads((folder / "checkpoint-3" / MANIFEST).read_text())["files"]
    assert files == {
        "weights": {"bytes": 1000, "sha256": hashlib.sha256(b"w" * 1000).hexdigest()},
        "state.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
    }


def test_old_ones_go_and_the_best_stays(folder):
    for step in (12, 14, 16):
        write(folder, step, fill, {})
    thin_out(folder, 2, best=3)
    assert {path.name for path in folder.iterdir()} == {"checkpoint-3", "checkpoint-14", "checkpoint-16"}


def test_a_folder_without_any_has_none(tmp_path):
    assert newest(tmp_path / "nowhere", print) is None
