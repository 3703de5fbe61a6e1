"""Checkpoints and adapters that nothing can go on from: each is named and passed over, or refused."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers import make_model
from lorascope.compose import compose
from lorascope.errors import RunError
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from lorascope.training.checkpoints import MANIFEST, newest, read, write
from lorascope.training.resume import ADAPTER_FILE, FILES, STATE, SUMS, check_resumable, restore_adapter, restore_sums
from malformed.judged import at_most_told, clear, few, json_values, told

META = {
    "before": (1.5).hex(), "fingerprint": {}, "versions": {}, "best": None, "finished": False,
    "trained": {"steps": 1, "tokens": 2, "train_loss": 3.0, "seconds": 4.0},
}  # fmt: skip


def make(folder, step, meta=META, **contents):
    """A whole checkpoint; `contents` are files by their names' first word."""

    def fill(place):
        for name in FILES:
            usual = json.dumps({"global_step": step}) if name == STATE else "{}"
            (place / name).write_text(contents.get(name.partition(".")[0], usual))

    return write(folder, step, fill, meta)


@pytest.fixture
def folder(tmp_path):
    make(tmp_path, 3)
    return tmp_path


def passed_over(folder):
    """What is told of the one checkpoint that is passed over for that of step 3."""
    notes = []
    assert newest(folder, notes.append, check_resumable).step == 3
    (note,) = notes
    assert clear(note)
    return note


# what a manifest of step 10 is changed to -> what is told
MANIFESTS = {
    "another step": ({"step": 11}, "manifest.json is of step 11"),
    "a step that is half": ({"step": 10.5}, "manifest.json is damaged"),
    "a step in quotes": ({"step": "10"}, "manifest.json is damaged"),
    "no step": ({"step": None}, "manifest.json is damaged"),
    "a list of files": ({"files": [ADAPTER_FILE]}, "manifest.json is damaged"),
    "nothing of a file": ({"files": {ADAPTER_FILE: None}}, f"{ADAPTER_FILE} cannot be read"),
    "no hash of a file": ({"files": {ADAPTER_FILE: {"bytes": 2}}}, f"{ADAPTER_FILE} cannot be read"),
    "another file's hash": ({"files": {ADAPTER_FILE: {"bytes": 2, "sha256": "0" * 64}}}, "is not what was written"),
    "a hash that is a number": ({"files": {ADAPTER_FILE: {"bytes": 2, "sha256": 7}}}, "is not what was written"),
    "a file that is a folder": ({"files": {".": {"bytes": 2, "sha256": ""}}}, ". is missing"),
    "a file of no letters": ({"files": {"": {"bytes": 2, "sha256": ""}}}, " is missing"),
    "a file of endless letters": ({"files": {"x" * 5000: {"bytes": 2, "sha256": ""}}}, "xxx"),
    "a file with a zero byte": ({"files": {"a\0b": {"bytes": 2, "sha256": ""}}}, "missing"),
}


@pytest.mark.parametrize(("change", "says"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_does_not_fit_is_named_and_passed_over(change, says, folder):
    path = make(folder, 10).path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert says in passed_over(folder)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe\0", b"[" * 100_000, b'{"step": ' + b"9" * 5000 + b"}", b'{"step": 10'],
    ids=["nothing", "no text", "no end", "too many digits", "cut"],
)  # fmt: skip
def test_a_manifest_that_is_no_json_is_named_and_passed_over(data, folder):
    (make(folder, 10).path / MANIFEST).write_bytes(data)
    assert "manifest.json is damaged" in passed_over(folder)


# what a whole checkpoint says of itself -> what is told
METAS = {
    "nothing": ({}, "its manifest has no valid before, fingerprint, versions, best, finished, trained"),
    "a loss that is a number": (META | {"before": 1.5}, "its manifest has no valid before"),
    "a loss that is infinite": (META | {"before": "inf"}, "its manifest has no valid before"),
    "a loss beyond all numbers": (META | {"before": "0x1p99999"}, "its manifest has no valid before"),
    "a list of versions": (META | {"versions": []}, "its manifest has no valid versions"),
    "a best without a step": (META | {"best": {"eval_loss": 1.0}}, "its manifest has no valid best"),
    "a best of true": (META | {"best": {"eval_loss": True, "step": 3}}, "its manifest has no valid best"),
    "an end that is 1": (META | {"finished": 1}, "its manifest has no valid finished"),
    "a training of nothing": (META | {"trained": {}}, "its manifest has no valid trained"),
    "steps in words": (META | {"trained": META["trained"] | {"steps": "x"}}, "its manifest has no valid trained"),
    "steps beyond all": (META | {"trained": META["trained"] | {"steps": 2**70}}, "its manifest has no valid trained"),
}


@pytest.mark.parametrize(("meta", "says"), METAS.values(), ids=METAS)
def test_a_checkpoint_that_does_not_tell_what_a_run_needs_is_passed_over(meta, says, folder):
    make(folder, 10, meta)
    assert says in passed_over(folder)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ('{"global_step": 9}', "trainer_state.json is of step 9"),
        ('{"global_step": "10"}', "trainer_state.json is of step 10"),
        ('{"global_step": null}', "trainer_state.json is of step None"),
        (json.dumps({"global_step": "x" * 9000}), "trainer_state.json is of step"),
        ("{}", "trainer_state.json is damaged"),
        ("[]", "trainer_state.json is damaged"),
        ("{", "trainer_state.json is damaged"),
        ("[" * 100_000, "trainer_state.json is damaged"),
    ],
    ids=["9", "text", "null", "endless text", "nothing", "list", "cut", "no end"],
)
def test_a_trainers_state_of_another_step_is_passed_over(state, says, folder):
    make(folder, 10, trainer_state=state)
    assert says in passed_over(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_whole_checkpoint_that_lacks_a_file_is_passed_over(name, folder):
    place = make(folder, 10).path
    manifest = json.loads((place / MANIFEST).read_text())
    del manifest["files"][name]
    (place / name).unlink()
    (place / MANIFEST).write_text(json.dumps(manifest))
    assert f"{name} is missing" in passed_over(folder)


@pytest.mark.parametrize(
    "name", ["checkpoint-x", "checkpoint--5", "checkpoint-1.5", "checkpoint-", "checkpoint-10-old"]
)
def test_a_folder_whose_name_is_no_step_is_not_looked_at(name, folder):
    shutil.copytree(folder / "checkpoint-3", folder / name)
    assert newest(folder, pytest.fail, check_resumable).step == 3


@pytest.mark.parametrize("name", ["checkpoint-010", "checkpoint-٣٠", f"checkpoint-{'9' * 200}", "checkpoint-9"])
def test_a_checkpoint_under_another_steps_name_is_passed_over(name, folder):
    shutil.copytree(folder / "checkpoint-3", folder / name)
    assert "manifest.json is of step 3" in passed_over(folder)


def test_a_file_that_stands_where_a_checkpoint_goes_is_passed_over(folder):
    (folder / "checkpoint-10").write_text("x")
    assert "manifest.json" in passed_over(folder)


SUMMED = {"window": "0x0p+0", "total": "0x0p+0", "last_logged": 1, "read_tokens": 2, "averages": {}, "evaluate": False}


def trainer():
    return SimpleNamespace(_tr_loss=torch.tensor(0.0), _metrics={"train": {}})


@pytest.mark.parametrize(
    "sums",
    [
        None, [], "x", {}, SUMMED | {"window": 1.5}, SUMMED | {"window": "loss"}, SUMMED | {"total": None},
        SUMMED | {"total": "0x1p99999"}, SUMMED | {"last_logged": "x"}, SUMMED | {"read_tokens": []},
        SUMMED | {"averages": []}, SUMMED | {"averages": {"loss": 3}}, SUMMED | {"averages": {"loss": [None]}},
    ],
    ids=lambda sums: str(sums)[-40:],
)  # fmt: skip
def test_sums_by_another_hand_are_told(sums, tmp_path):
    (tmp_path / SUMS).write_text(json.dumps(sums))
    with told("sums.json is damaged", RunError):
        restore_sums(trainer(), tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[" * 100_000], ids=["nothing", "no text", "cut", "no end"])
def test_sums_that_are_no_json_are_told(data, tmp_path):
    (tmp_path / SUMS).write_bytes(data)
    with told("sums.json is damaged", RunError):
        restore_sums(trainer(), tmp_path)


@pytest.fixture(scope="module")
def model():
    base = make_model()
    return attach(base, plan_targets(compose(["target=q_v"]).target, map_modules(base, "tiny", "here")), 0)


@pytest.fixture
def tensors(model):
    from peft import get_peft_model_state_dict

    return {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}


@pytest.mark.parametrize("change", ["no tensor", "one less", "one more", "another rank", "another name", "a number"])
def test_an_adapter_of_another_run_is_told_by_the_first_tensor_that_differs(change, model, tensors, tmp_path):
    name = sorted(tensors)[0]
    if change == "no tensor":
        tensors = {}
    elif change == "one more":
        tensors["extra"] = torch.zeros(1)
    elif change == "another rank":
        tensors[name] = torch.zeros(3, 32)
    elif change == "a number":
        tensors[name] = torch.tensor(0.0)
    else:
        tensor = tensors.pop(name)
        tensors |= {f"{name}x": tensor} if change == "another name" else {}
    save_file(tensors, tmp_path / ADAPTER_FILE)
    with told("it holds another adapter than this run's", RunError):
        restore_adapter(model, tmp_path)


@pytest.mark.parametrize("change", ["cut", "emptied", "removed", "text", "a folder"])
def test_an_adapter_that_cannot_be_read_is_told(change, model, tensors, tmp_path):
    path = tmp_path / ADAPTER_FILE
    save_file(tensors, path)
    data = path.read_bytes()
    path.unlink()
    if change == "a folder":
        path.mkdir()
    elif change != "removed":
        path.write_bytes({"cut": data[: len(data) // 2], "emptied": b"", "text": b"adapter"}[change])
    with told(f"{ADAPTER_FILE} cannot be read", RunError):
        restore_adapter(model, tmp_path)


@few
@given(key=st.sampled_from(["step", "meta", "files", "other"]), value=json_values("step", "bytes", "sha256", SUMS))
def test_whatever_stands_in_a_manifest_is_a_checkpoint_or_is_told(key, value, tmp_path):
    path = make(tmp_path, 10).path
    (path / MANIFEST).write_text(json.dumps(json.loads((path / MANIFEST).read_text()) | {key: value}))
    with at_most_told():
        check_resumable(read(path))


@few
@given(key=st.sampled_from(list(SUMMED)), value=json_values("0x0p+0", "inf"))
def test_whatever_stands_in_the_sums_they_are_put_back_or_are_told(key, value, tmp_path):
    (tmp_path / SUMS).write_text(json.dumps(SUMMED | {key: value}))
    with at_most_told():
        restore_sums(trainer(), tmp_path)
