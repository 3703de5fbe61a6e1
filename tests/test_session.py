"""Runs that share a base end in the same bits as runs in processes of their own."""

import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from helpers import CHAT_TEMPLATE, make_model, make_tokenizer
from lorascope.base.restore import Seal
from lorascope.compose import compose
from lorascope.console import quiet
from lorascope.errors import LorascopeError
from lorascope.planning.run_plan import resolve_config
from lorascope.run import execute
from lorascope.session import Session

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = Console(quiet=True)
KINDS = {
    "fp32": ["model.dtype=float32"],
    "bf16": ["model.dtype=bfloat16"],
    "nf4": ["model.dtype=float32", "quantization=nf4"],
    "checkpointing": ["model.dtype=float32", "train.sft.activation_checkpointing=true"],
}
ARMS = ["target=q_v", "target=qv_ffn", "target=qkvo target.dora=true", "target=q_v +target.modules={lm_head: 4}"]


@pytest.fixture(scope="module")
def words(tiny):
    return [
        "model=hf", f"model.path={tiny}", "model.name=tiny", "device=cpu", "dataset=airports", "logger=none",
        "dataset.max_train_samples=24", "dataset.max_eval_samples=6", "train.batch_size=4", "train.learning_rate=1e-2",
        "train.eval_steps=3", "evaluation.forgetting.texts=2", "evaluation.forgetting.tokens=6", "resume=never",
    ]  # fmt: skip


def arm(text: str) -> list[str]:
    head, _, rest = text.partition(" ")
    return [head, *([rest.replace("+target", "target")] if rest else [])]


def run(words, folder: Path, session: Session | None = None):
    config = compose([*words, f"runs_dir={folder}"])
    record = execute(config, QUIET, session)
    weights = load_file(folder / record.name / "adapter" / "adapter_model.safetensors")
    return record, weights


def same(one, other) -> bool:
    (left, a), (right, b) = one, other
    return left.metrics == right.metrics and a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    """What each arm comes to with a base of its own, by kind."""
    known = {}

    def of(kind: str, text: str):
        if (kind, text) not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[kind, text] = run([*words, *KINDS[kind], *arm(text)], folder)
        return known[kind, text]

    return of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, -1], ids=["forth", "back"])
def test_runs_that_share_a_base_end_in_the_same_bits_as_alone(kind, order, words, alone, tmp_path):
    session = Session()
    arms = ARMS if kind == "fp32" else ARMS[:2]
    for text in arms[::order]:
        assert same(run([*words, *KINDS[kind], *arm(text)], tmp_path, session), alone(kind, text)), text
    assert session.loaded == 1


@pytest.mark.parametrize("kind", ["fp32", "bf16", "nf4"])
def test_trained_biases_stay_with_their_run_and_the_base_is_put_back(kind, words, tmp_path):
    base = tmp_path / "base"
    make_model(attention_bias=True, mlp_bias=True).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    words = [*words, *KINDS[kind], f"model.path={base}"]
    session = Session()
    plain = run([*words, "target=q_v"], tmp_path / "alone")
    for bias in ("lora_only", "all"):
        arm = ["target=q_v", f"target.bias={bias}"]
        together = run([*words, *arm], tmp_path / "together", session)
        assert same(together, run([*words, *arm], tmp_path / "alone"))
        assert any("bias" in name for name in together[1])
        # with the adapter switched off, its biases would be left
        assert "forgetting_kl" in plain[0].metrics.keys() - together[0].metrics.keys()
    assert same(run([*words, "target=q_v"], tmp_path / "together", session), plain)
    assert session.loaded == 1


def test_after_a_neighbour_that_failed_the_next_is_the_same(words, alone, tmp_path, monkeypatch):
    from lorascope.training import sft_trainer

    session, kind = Session(), sft_trainer.trainer_class()

    def fails(error):
        def step(self, *_, **__):
            raise error

        return step

    for number, error in enumerate((RuntimeError("crash"), torch.OutOfMemoryError("out of memory"))):
        with monkeypatch.context() as patch:
            patch.setattr(kind, "training_step", fails(error))
            with pytest.raises((RuntimeError, LorascopeError)):
                run([*words, *KINDS["fp32"], *arm(ARMS[1]), f"seed={number}"], tmp_path, session)
    with pytest.raises(LorascopeError, match="not a number to learn from"):
        run([*words, *KINDS["fp32"], *arm(ARMS[1]), "train.learning_rate=1e30"], tmp_path, session)
    assert same(run([*words, *KINDS["fp32"], *arm(ARMS[0])], tmp_path, session), alone("fp32", ARMS[0]))
    assert session.loaded == 1


def test_a_base_that_a_run_changed_is_loaded_anew(words, alone, tmp_path, capsys):
    """PiSSA takes the principal components out of the base."""
    session = Session()
    run([*words, *KINDS["fp32"], "target=q_v", "target.init=pissa"], tmp_path, session)
    assert "this run changed the base" in capsys.readouterr().err
    assert same(run([*words, *KINDS["fp32"], *arm(ARMS[0])], tmp_path, session), alone("fp32", ARMS[0]))
    assert session.loaded == 2


def test_a_hook_that_stayed_on_the_base_would_be_seen(words, alone, tmp_path, monkeypatch):
    """The control: a hook that is put back with the base makes the next run another."""
    session, put_back = Session(), Seal.put_back

    def leaky(self):
        put_back(self)
        session._base.model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: output * 1.5)

    with monkeypatch.context() as patch:
        patch.setattr(Seal, "put_back", leaky)
        run([*words, *KINDS["fp32"], *arm(ARMS[1])], tmp_path, session)
    assert not same(run([*words, *KINDS["fp32"], *arm(ARMS[0])], tmp_path, session), alone("fp32", ARMS[0]))


def test_another_base_or_data_set_is_another(words, tmp_path):
    session = Session()
    run([*words, *KINDS["fp32"], "target=q_v"], tmp_path, session)
    run([*words, *KINDS["fp32"], "target=q_v", "dataset.max_train_samples=12"], tmp_path, session)
    assert session.loaded == 1
    run([*words, *KINDS["bf16"], "target=q_v"], tmp_path, session)
    assert session.loaded == 2


def test_models_that_differ_in_the_template_alone_do_not_share_data(tiny, tiny_words, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        shutil.copytree(tiny, folder)
    (folders[1] / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("<|end|>", "<|end|><|end|>"))
    session, found = Session(), []
    for folder in (*folders, folders[0]):
        config = resolve_config(compose([*tiny_words, f"model.path={folder}"]))
        found.append([*session.inputs(config, quiet()).train.input_ids])
    assert found[0] == found[2]
    assert found[0] != found[1]


def test_a_template_that_is_edited_between_two_runs_is_read_again(tiny, tiny_words, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    session, found, longest = Session(), [], []
    for more in ("", "<|end|>"):
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("<|end|>", "<|end|>" + more))
        config = resolve_config(compose([*tiny_words, f"model.path={folder}"]))
        found.append([*session.inputs(config, quiet()).train.input_ids])
        longest.append(session.planning.size(config).longest)
    assert found[0] != found[1]
    assert longest[0] < longest[1]
