"""What a file that somebody else wrote can do: be refused, and nothing more."""

import json
import pickle
import shutil

import pytest
import torch

import lorascope.run as story
from helpers import make_model, make_tokenizer
from lorascope.base.loading import load_base
from lorascope.compose import compose
from lorascope.data.rows import Message, Row
from lorascope.data.tokenization import encode_row
from lorascope.errors import LorascopeError, RunError
from lorascope.evaluation.measure import Measure
from lorascope.training.checkpoints import newest, write
from lorascope.training.resume import restore_adapter


class Bomb:
    """A pickle that runs code when it is read."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


def test_a_pickle_among_the_weights_runs_nothing(tmp_path):
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bomb": Bomb(tmp_path / "went-off")}, folder / "pytorch_model.bin", pickle_module=pickle)
    config = compose(["model=hf", f"model.path={folder}", "device=cpu", "quantization=none", "model.dtype=float32"])
    with pytest.raises(LorascopeError):
        load_base(config)
    assert not (tmp_path / "went-off").exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "scheduler.pt"])
def test_a_pickle_in_a_checkpoint_runs_nothing(tmp_path, tiny_words, monkeypatch, name):
    words = [*tiny_words, "train.save_steps=2"]

    def cut(*_):
        raise RunError("here", "cut after the training")

    with monkeypatch.context() as patch:
        patch.setattr(Measure, "adapted", cut)
        with pytest.raises(RunError, match="cut"):
            story.execute(compose(words))
    (place,) = tmp_path.glob("runs/*/checkpoints")
    shutil.rmtree(newest(place, print).path)
    latest = newest(place, print)
    files = {path.name: path.read_bytes() for path in latest.path.iterdir() if path.name != "manifest.json"}
    torch.save({"bomb": Bomb(tmp_path / "went-off")}, tmp_path / "bomb")
    files[name] = (tmp_path / "bomb").read_bytes()

    def fill(folder):
        for file, data in files.items():
            (folder / file).write_bytes(data)

    # a manifest that matches, as whoever can write here can make one
    write(place, latest.step, fill, latest.meta | {"finished": False})
    with pytest.raises(Exception):  # noqa: B017, PT011
        story.execute(compose(words))
    assert not (tmp_path / "went-off").exists()


def test_an_adapter_of_a_checkpoint_is_safetensors_or_nothing(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "went-off")))
    with pytest.raises(Exception):  # noqa: B017, PT011
        restore_adapter(make_model(), tmp_path)
    assert not (tmp_path / "went-off").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{% for m in messages %}{{ m.update({'content': 'x'}) }}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(template):
    tokenizer = make_tokenizer(template)
    row = Row((Message("user", "Hello"), Message("assistant", "Yes")))
    try:
        text = json.dumps(tokenizer.decode(encode_row(row, tokenizer, "row 1").ids))
    except LorascopeError:
        return
    assert "class" not in text
    assert "root:" not in text
