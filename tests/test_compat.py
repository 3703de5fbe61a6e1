"""What compat.py uses of other libraries is there, takes what it is given and does what is said of it.

A failure names the entry of compat.py that a new release broke.
"""

import ast
import inspect
import os
import re
import sys
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope import compat
from small_models import small_config

SOURCE = Path(compat.__file__).parents[1]
# of the trainer's methods, what transformers or this package passes to them
PARAMETERS = {
    "compute_loss": ["model", "inputs", "return_outputs", "num_items_in_batch"],
    "training_step": ["model", "inputs", "num_items_in_batch"],
    "evaluate": ["eval_dataset", "ignore_keys", "metric_key_prefix"],
    "_get_train_sampler": ["train_dataset"],
    "_get_grad_norm": ["model", "grad_norm"],
    "_save_checkpoint": ["model", "trial"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_save_optimizer_and_scheduler": ["output_dir"],
    "_save_scaler": ["output_dir"],
    "_save_rng_state": ["output_dir"],
    "store_flos": [],
}


def adapted(model, **settings):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(**{"target_modules": ["q_proj"], **settings}))


def names(package: str) -> str:
    return f"{package} {version(package)}"


# the trainer


@pytest.mark.parametrize("name", sorted(compat.TRAINER_HOOKS))
def test_the_trainer_has_the_method(name):
    from transformers import Trainer
    from trl import SFTTrainer

    assert hasattr(SFTTrainer, name), f"TRAINER_HOOKS: {name} is gone from {names('trl')}"
    found = list(inspect.signature(getattr(Trainer, name)).parameters)[1:]
    assert found == PARAMETERS[name], f"TRAINER_HOOKS: {name} takes {found} in {names('transformers')}"


def test_every_trainer_method_that_is_replaced_is_in_the_table():
    from trl import SFTTrainer

    trees = [ast.parse(path.read_text()) for path in (SOURCE / "lorascope" / "training").glob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    classes = [one for one in classes if one.name == "RunTrainer"]
    assert classes
    own = {item.name for one in classes for item in one.body if isinstance(item, ast.FunctionDef)}
    replaced = {name for name in own if hasattr(SFTTrainer, name) and not name.startswith("__")}
    called = {
        node.attr
        for one in classes
        for node in ast.walk(one)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self" and node.attr not in own
        if inspect.isfunction(getattr(SFTTrainer, node.attr, None)) and node.attr.startswith("_")
    }
    assert replaced | called <= set(compat.TRAINER_HOOKS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """TRL's trainer after three steps, and its sums when the third was done; a log line is behind the second."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            found.append(compat.loss_sums(made))

    found: list[dict] = []
    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4, "labels": [[1, 2, 3]] * 4})
    args = SFTConfig(
        str(tmp_path_factory.mktemp("trainer")), max_steps=3, per_device_train_batch_size=1, logging_steps=2,
        save_strategy="no", report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    model = adapted(make_model())
    made = SFTTrainer(model, args, train_dataset=rows, processing_class=make_tokenizer(), callbacks=[Look()])
    made.train()
    return made, found[-1]


def test_loss_sums_are_what_the_log_and_train_loss_are_made_of(trained):
    trainer, sums = trained
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert (sums["last_logged"], sums["read_tokens"]) == (2, 9)
    assert sums["total"] == pytest.approx(2 * logged[0])
    assert sums["total"] + sums["window"] == pytest.approx(3 * trainer.state.log_history[-1]["train_loss"])
    assert len(sums["averages"]["mean_token_accuracy"]) == 1


def test_set_loss_sums_puts_back_what_loss_sums_gave(trained):
    trainer, sums = trained
    compat.set_loss_sums(trainer, {**sums, "total": 2.25})
    assert compat.loss_sums(trainer) == {**sums, "total": 2.25}
    assert trainer._initial_global_step == 0


def sft_trainer(model, folder):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[1, 2, 3]]})
    args = SFTConfig(str(folder), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=True)
    return SFTTrainer(model, args, train_dataset=rows, processing_class=make_tokenizer())


@pytest.mark.filterwarnings("ignore")  # of PEFT and TRL, about the head and the name of a setting
def test_head_hidden_lets_trl_take_an_adapter_on_the_head(tmp_path):
    model = adapted(make_model(), target_modules=["lm_head"])
    head = model.get_output_embeddings()
    with pytest.raises(ValueError, match="lm_head"):
        sft_trainer(model, tmp_path)
    with compat.head_hidden(model):
        sft_trainer(model, tmp_path)
    assert model.get_output_embeddings() is head


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spared", [False, True])
def test_no_gradient_of_inputs_keeps_the_embeddings_out_of_the_backward_pass(tmp_path, spared):
    model = adapted(make_model())
    with compat.no_gradient_of_inputs(model) if spared else nullcontext():
        sft_trainer(model, tmp_path)
    assert model.get_input_embeddings()(torch.tensor([[1]])).requires_grad is not spared


# models


def test_unquantized_modules_names_the_head():
    assert "lm_head" in compat.unquantized_modules(make_model())


# PEFT


def test_taken_for_experts_knows_the_types_whose_experts_are_stacks():
    assert {"w1", "w2", "w3"} <= compat.taken_for_experts("mixtral"), f"taken_for_experts: {names('peft')}"
    assert "gate_proj" in compat.taken_for_experts("qwen3_moe")
    assert compat.taken_for_experts("llama") == set()


def test_low_rank_is_the_nearest_product_of_its_rank():
    matrix = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    a, b = compat.low_rank(matrix, 2)
    assert (a.shape, b.shape) == ((2, 6), (8, 2))
    u, s, v = torch.linalg.svd(matrix)
    torch.testing.assert_close(b @ a, u[:, :2] * s[:2] @ v[:2])


@pytest.mark.parametrize("size", ["10GB", "20KB"], ids=["one file", "several"])
def test_tensor_reader_reads_what_save_pretrained_wrote(tmp_path, size):
    base = make_model()
    base.save_pretrained(tmp_path, max_shard_size=size)
    read = compat.tensor_reader(adapted(base), tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(read(name), base.get_parameter(name))
    with pytest.raises(FileNotFoundError):
        compat.tensor_reader(adapted(make_model()), tmp_path / "nothing")


def test_remove_eva_hooks_takes_off_what_eva_leaves_and_nothing_else():
    from peft import EvaConfig, LoraConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    model = make_model()
    module = model.model.layers[0].self_attn.q_proj
    module.register_forward_hook(lambda module, inputs, output: None)

    def fails(model, batch):
        raise OSError("a pass that fails")

    batch = {"input_ids": torch.ones(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="eva", eva_config=EvaConfig())
    with pytest.raises(OSError, match="fails"):
        get_eva_state_dict(model, [batch], config, forward_fn=fails, show_progress_bar=False)
    assert len(module._forward_hooks) == 2, f"remove_eva_hooks: {names('peft')} leaves no hook; it is not needed"
    compat.remove_eva_hooks(model.modules())
    assert len(module._forward_hooks) == 1


# Hydra


def test_basic_launcher_and_sweeper_have_what_is_extended():
    launcher, sweeper = compat.basic_launcher(), compat.basic_sweeper()
    assert list(inspect.signature(launcher.launch).parameters) == ["self", "job_overrides", "initial_job_idx"]
    assert list(inspect.signature(sweeper.sweep).parameters) == ["self", "arguments"]
    for one in (launcher, sweeper):
        parameters = {"hydra_context", "task_function", "config"}
        assert parameters <= set(inspect.signature(one.setup).parameters), one
    made = sweeper(max_batch_size=None)
    assert hasattr(made, "launcher")


def test_errors_raised_keeps_hydra_from_ending_the_process(monkeypatch, tmp_path):
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    def job(config):
        raise LookupError("from the job")

    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "hydra.run.dir=.", "hydra.output_subdir=null"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    GlobalHydra.instance().clear()
    main = hydra.main(version_base="1.3", config_path=str(tmp_path), config_name="config")(job)
    with compat.errors_raised(), pytest.raises(LookupError, match="from the job"):
        main()
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_job_error_is_the_jobs_own_and_nothing_is_printed(capsys):
    from hydra.core.utils import JobReturn, JobStatus

    error = LookupError("from the job")
    failed = JobReturn(overrides=["a=1"], status=JobStatus.FAILED)
    failed.return_value = error
    assert compat.job_error(failed) is error
    assert capsys.readouterr() == ("", "")


def composing(folder, *overrides: str) -> Exception:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("config", list(overrides))
    return caught.value


def test_was_composing_tells_a_file_or_override_from_all_else(tmp_path):
    (tmp_path / "config.yaml").write_text("defaults: [part: one]\n")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "one.yaml").write_text("a: [1\n")
    assert compat.was_composing(composing(tmp_path))
    assert compat.was_composing(composing(tmp_path, "a=[1"))
    with pytest.raises(ZeroDivisionError) as other:
        _ = 1 / 0
    assert not compat.was_composing(other.value)


def test_last_read_names_the_file_and_the_override(tmp_path):
    (tmp_path / "config.yaml").write_text("defaults: [part: one]\n")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "one.yaml").write_text("a: [1\n")
    assert compat.last_read(composing(tmp_path))[0] == "part/one.yaml"
    assert compat.last_read(composing(tmp_path, "part=1"))[1] == "part=1"


# torch


def test_set_parameter_makes_a_module_compute_with_a_plain_tensor():
    import torch

    module = torch.nn.Linear(2, 1)
    own, other = module.bias, torch.tensor([7.0])
    compat.set_parameter(module, "bias", other)
    assert torch.equal(module(torch.zeros(1, 2)), torch.tensor([[7.0]])), f"set_parameter: {names('torch')}"
    compat.set_parameter(module, "bias", own)
    assert module.bias is own
    assert dict(module.named_parameters())["bias"] is own


# all of it


def test_no_other_module_uses_private_names_of_libraries():
    """An attribute with one leading underscore, of anything but self, cls or super()."""
    for path in SOURCE.rglob("*.py"):
        if path == Path(compat.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match(
                "_(?!replace|asdict)[a-z]", node.attr
            ):  # a namedtuple's are public
                owner = ast.unparse(node.value)
                assert owner in ("self", "cls", "super()"), f"{path.name}: {owner}.{node.attr}"
            if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("lorascope"):
                private = [part for part in (node.module or "").split(".") if re.match("_[a-z]", part)]
                private += [alias.name for alias in node.names if re.match("_[A-Za-z]", alias.name)]
                assert node.module == "__future__" or not private, f"{path.name}: {node.module} {private}"


@pytest.mark.parametrize(("kind", "wanted"), [("llama", "sdpa"), ("gpt_oss", "eager")])
def test_attention_of_is_eager_where_a_type_has_no_other(kind, wanted):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(small_config(kind))
    assert compat.attention_of(model) == wanted


def test_peft_says_which_modules_of_mamba_it_does_not_adapt():
    assert "out_proj" in compat.refused_by_peft("mamba", "out_proj"), f"refused_by_peft: {names('peft')}"
    assert compat.refused_by_peft("mamba", "in_proj") == compat.refused_by_peft("llama", "o_proj") == ""


def test_omegaconf_reads_yaml_by_a_loader_that_can_be_extended():
    from omegaconf import OmegaConf, _utils

    before = _utils.get_yaml_loader
    try:
        compat.keep_text_of_yaml(frozenset({"word"}))
        read = OmegaConf.to_container(OmegaConf.create("word: no\nother: no\nlist: {word: [1.0, ~, {a: on}]}"))
    finally:
        _utils.get_yaml_loader = before
    assert read == {"word": "no", "other": False, "list": {"word": ["1.0", None, {"a": "on"}]}}, names("omegaconf")


def test_every_entry_of_compat_is_tested_by_its_name():
    tests = Path(__file__).read_text()
    entries = [node.name for node in ast.parse(inspect.getsource(compat)).body if isinstance(node, ast.FunctionDef)]
    assert [name for name in entries if f"compat.{name}(" not in tests] == []
