"""A local model whose files have changed makes another run."""

import shutil

import pytest

from lorascope.base.hub import folder_hash
from lorascope.compose import compose
from lorascope.planning.run_plan import resolve_config
from lorascope.records.identity import run_id


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json", "model.safetensors", "config.json"])
def test_an_edited_file_makes_another_run(tiny, tmp_path, file):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    words = ["model=hf", f"model.path={folder}", "dataset=airports", "device=cpu"]
    before = run_id(resolve_config(compose(words)))
    assert run_id(resolve_config(compose(words))) == before
    with (folder / file).open("ab") as opened:
        opened.write(b" ")
    assert run_id(resolve_config(compose(words))) != before


def test_what_no_run_reads_makes_no_other_run(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    model = compose(["model=hf", f"model.path={folder}"]).model
    before = folder_hash(model)
    (folder / "README.md").write_text("about it")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "model.safetensors").write_text("x")
    assert folder_hash(model) == before


@pytest.mark.parametrize("words", [["model=smollm2"], ["model=hf", "model.path=org/name"], ["model=mistral7b"]])
def test_a_model_of_the_hub_or_a_package_is_known_by_its_revision(words):
    assert folder_hash(compose(words).model) is None
