import copy
import json

import pytest

from lorascope.cli.main import main
from lorascope.records.record import EVAL_LOSS, Metric, RunRecord, Status, write_record
from reports.made_records import record

ACCURACY = Metric("accuracy", better="higher", unit="%")


def module(role: str, layer: int, rank: int, parameters: int) -> dict:
    return {
        "name": f"layers.{layer}.{role}", "layer": layer, "role": role, "rank": rank, "alpha": 16.0,
        "scale": 16.0 / rank, "parameters": parameters,
    }  # fmt: skip


def full(target: str, loss: float, run_id: str, roles: dict[str, int]) -> RunRecord:
    """A whole record: two layers, the roles at their ranks, 100 parameters a rank."""
    one = record(target, 0, loss)
    one.run_id, one.run_hash, one.name = run_id, run_id * 8, f"{target}-tiny-airports-s0-{run_id}"
    one.config["target"]["ranks"] = dict.fromkeys(["q", "v", "up", "down"]) | roles
    one.config["runs_dir"] = f"runs-{run_id}"
    modules = [module(role, layer, rank, 100 * rank) for layer in (0, 1) for role, rank in roles.items()]
    one.plan = {
        "trainable_parameters": sum(one["parameters"] for one in modules), "stored_parameters": 0,
        "trainable_percent": 0.5, "base_parameters": 1_000_000, "alpha_policy": "constant", "modules": modules,
    }  # fmt: skip
    one.metrics = {"eval_loss": EVAL_LOSS.entry(loss, 6.0), "accuracy": ACCURACY.entry(100 - 10 * loss, 1.0)}
    one.data = {half: {"rows": 24, "tokens": 900, "supervised_tokens": 99, "hash": "d1"} for half in ("train", "eval")}
    one.fingerprint = {"hash": "f1", "train_data": "d1", "dtype": "float32"}
    one.environment = {"python": "3.11.7", "cpu": "x", "packages": {"torch": "2.13.0", "peft": "0.21.2"}}
    return one


@pytest.fixture
def pair():
    return full("q_v", 1.7, "aaaa1111", {"q": 8, "v": 8}), full("qv_ffn", 0.5, "bbbb2222", {"q": 8, "v": 8, "up": 4})


def keep(folder, *records: RunRecord) -> list[str]:
    for one in records:
        (folder / one.name).mkdir(parents=True)
        write_record(one, folder / one.name)
    return [str(folder / one.name) for one in records]


def compared(capsys, *words: str) -> dict:
    main(["compare", *words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_only_what_differs_is_kept(pair, tmp_path, capsys):
    found = compared(capsys, *keep(tmp_path, *pair))
    assert found["config"] == {"target.name": ["q_v", "qv_ffn"], "target.ranks.up": [None, 4]}
    assert found["config_without_effect"] == {"runs_dir": ["runs-aaaa1111", "runs-bbbb2222"]}
    assert found["plan"] == {
        "up": {
            "rank": [None, 4], "alpha": [None, 16.0], "scale": [None, 4.0], "parameters": [None, 2 * 400],
            "modules": [None, 2], "layers": [None, [0, 1]],
        }
    }  # fmt: skip
    assert found["plan_totals"] == {"trainable_parameters": [3200, 4000], "modules": [4, 6]}
    assert found["data"] == found["versions"] == found["machine"] == found["fingerprint"] == {}
    assert found["timing"]["tokens_per_second"] == [100.0, 100.0]
    assert found["memory"]["peak_bytes"] == [2**30, 2**30]


@pytest.mark.parametrize("turned", [False, True])
def test_better_follows_the_metrics_direction(pair, tmp_path, capsys, turned):
    places = keep(tmp_path, *pair)
    found = compared(capsys, *(reversed(places) if turned else places))
    loss, accuracy = found["metrics"]["eval_loss"], found["metrics"]["accuracy"]
    # qv_ffn has the lower loss and the higher accuracy: better in both
    assert loss["second_is"] == accuracy["second_is"] == ("worse" if turned else "better")
    assert loss["difference"] == pytest.approx(1.2 if turned else -1.2)
    assert accuracy["difference"] == pytest.approx(-12 if turned else 12)
    assert (loss["unit"], accuracy["unit"]) == ("nats/token", "%")


def test_the_screen_names_values_differences_and_units(pair, tmp_path, capsys):
    main(["compare", *keep(tmp_path, *pair)])
    out = capsys.readouterr().out
    for words in ("Comparable", "-1.2000", "better", "nats/token, lower is better", "target.ranks.up", "up scale",
                  "1.0 GiB", "One run each: a first look, not a verdict"):  # fmt: skip
        assert words in out
    assert "Not comparable" not in out


def test_different_fingerprints_are_named_and_nothing_is_called_better(pair, tmp_path, capsys):
    first, second = pair
    second.fingerprint |= {"hash": "f2", "train_data": "d2"}
    second.data["train"]["hash"] = "d2"
    second.data["train"]["rows"] = 25
    places = keep(tmp_path, first, second)
    main(["compare", *places])
    assert "Not comparable as they stand: the fingerprints differ in train_data." in capsys.readouterr().out
    found = compared(capsys, *places)
    assert found["comparable"] is False
    assert found["metrics"]["eval_loss"]["second_is"] is None
    assert found["data"] == {"train.hash": ["d1", "d2"], "train.rows": [24, 25]}


def test_versions_and_machines_that_differ_are_said(pair, tmp_path, capsys):
    first, second = pair
    second.environment = {"python": "3.12.1", "cpu": "y", "packages": {"torch": "2.12.0", "peft": "0.21.2"}}
    places = keep(tmp_path, first, second)
    main(["compare", *places])
    out = capsys.readouterr().out
    assert "Versions differ: python, torch." in out
    assert "Machines differ (cpu)" in out
    assert compared(capsys, *places)["versions"] == {"python": ["3.11.7", "3.12.1"], "torch": ["2.13.0", "2.12.0"]}


def test_equal_runs_are_called_equal(pair, tmp_path, capsys):
    first = pair[0]
    again = copy.deepcopy(first)
    again.timing["total_seconds"] = 99.0
    places = keep(tmp_path / "a", first) + keep(tmp_path / "b", again)
    main(["compare", *places])
    assert "The runs are equal" in capsys.readouterr().out
    found = compared(capsys, *places)
    assert found["equal"]
    assert found["metrics"]["eval_loss"]["second_is"] == "equal"


def test_a_repetition_with_another_loss_is_not_equal(pair, tmp_path, capsys):
    first = pair[0]
    again = copy.deepcopy(first)
    again.metrics["eval_loss"]["value"] = 1.71
    main(["compare", *keep(tmp_path / "a", first), *keep(tmp_path / "b", again)])
    out = capsys.readouterr().out
    assert "Same settings: one run and its repetition." in out
    assert "The runs are equal" not in out


def test_a_run_that_ended_early_says_what_it_lacks(pair, tmp_path, capsys):
    first, second = pair
    second.status, second.error = Status.failed, "DataError: no\nrows"
    second.data = second.metrics = second.fingerprint = second.environment = second.plan = {}
    places = keep(tmp_path, first, second)
    main(["compare", *places])
    out = capsys.readouterr().out
    assert "Whether they are comparable is not known: no fingerprint in B." in out
    assert "B did not come so far as to record: plan, data, fingerprint, environment, metrics." in out
    assert "failed: DataError: no" in out
    found = compared(capsys, *places)
    assert found["comparable"] is None
    assert found["versions"] == found["plan"] == {}


def test_settings_that_look_like_markup_are_shown_as_they_are(pair, tmp_path, capsys):
    first, second = pair
    second.config["target"]["name"] = "[bold]mine[/]"
    main(["compare", *keep(tmp_path, first, second)])
    assert "[bold]mine[/]" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["aaaa1111", "aaaa", "q_v-", "q_v-tiny-airports-s0-aaaa1111"])
def test_a_run_is_found_by_its_id_or_the_beginning_of_its_name(pair, tmp_path, capsys, word):
    keep(tmp_path / "deep" / "er", *pair)
    found = compared(capsys, word, "bbbb", "--runs", str(tmp_path))
    assert [one["run_id"] for one in found["runs"]] == ["aaaa1111", "bbbb2222"]


def test_a_whole_name_wins_over_one_that_begins_with_it(pair, tmp_path, capsys):
    first, second = pair
    first.name, second.name = "night", "night-2"
    keep(tmp_path, first, second)
    assert compared(capsys, "night", "night-2", "--runs", str(tmp_path))["runs"][0]["run_id"] == "aaaa1111"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("q", "q fits 2 runs: "),
        ("cccc", "cccc: no run below "),
        ("qv_fn-tiny-airports-s0-bbbb2222", "Did you mean qv_ffn-tiny-airports-s0-bbbb2222?"),
    ],
)
def test_a_run_that_is_none_or_several_is_one_message(pair, tmp_path, capsys, word, told):
    keep(tmp_path, *pair)
    with pytest.raises(SystemExit) as end:
        main(["compare", word, "bbbb", "--runs", str(tmp_path)])
    assert end.value.code == 1
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) == 2


def test_a_damaged_run_is_told_only_when_it_is_meant(pair, tmp_path, capsys):
    keep(tmp_path, *pair)
    (tmp_path / "zz").mkdir()
    (tmp_path / "zz" / "run.json").write_text("{")
    assert compared(capsys, "aaaa", "bbbb", "--runs", str(tmp_path))["comparable"]
    with pytest.raises(SystemExit):
        main(["compare", "aaaa", "zz", "--runs", str(tmp_path)])
    assert "is damaged" in capsys.readouterr().err


def test_runs_in_a_folder_that_is_not_there_is_one_message(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["compare", "a", "b", "--runs", str(tmp_path / "no")])
    assert "--runs" in capsys.readouterr().err
