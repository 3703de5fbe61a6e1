"""Words of the command line that mean nothing, through the door that every command uses."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import make_model, run_train
from lorascope.compose import compose
from lorascope.config.schema import RunConfig
from lorascope.config.sft_settings import sft_fields
from lorascope.errors import ConfigError, PlanError
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules
from malformed.judged import at_most_told, clear, few, told

# word -> what the message holds; those of tests/test_config.py are not repeated
WORDS = {
    # another type
    "train.learning_rate=[1,2]": "must be a number (got '[1, 2]')",
    "train.learning_rate={a: 1}": "must be a number (got '{'a': 1}')",
    "train.learning_rate=true": "must be a number (got 'True')",
    "train.max_steps=1.5": "must be a whole number (got '1.5')",
    "train.max_length=1e9": "must be a whole number (got '1000000000.0')",
    "train.keep_best=perhaps": "train.keep_best must be a metric that is measured (got 'perhaps')",
    "train.keep_best=3": "train.keep_best must be a metric that is measured (got 3)",
    "train.stop_early.metric=loss": "train.stop_early.metric must be a metric that is measured (got 'loss')",
    "train.stop_early.patience=0": "train.stop_early.patience",
    "train.eval_metrics=[bleu]": "train.eval_metrics must be a metric that is measured (got 'bleu')",
    "train.eval_metrics=[macro_f1]": "train.eval_metrics must come with train.eval_steps",
    "train.scheduler=[linear]": "must be one of constant, linear, cosine (got ['linear'])",
    "train.scheduler=null": "must be one of constant, linear, cosine (got null)",
    "seed=[]": "must be a whole number (got '[]')",
    "seed=null": "must be a whole number (got null)",
    "seed=''": "must be a whole number (got '')",
    "device=[cpu]": "must be one of auto, cpu, cuda, mps (got ['cpu'])",
    "dry_run=[]": "must be true or false (got '[]')",
    "resume=sometimes": "must be one of auto, never (got 'sometimes')",
    "runs_dir=[a]": "must be text (got '['a']')",
    "runs_dir={a: b}": "must be text (got '{'a': 'b'}')",
    "target.name=[a]": "must be text (got '['a']')",
    "model.path={a: b}": "must be text (got '{'a': 'b'}')",
    "dataset.source=[airports]": "must be text (got '['airports']')",
    "dataset.eval_share=x": "must be a number (got 'x')",
    "logger.tags=x": "must be a list (got str)",
    "logger.tags=[null]": "logger.tags[0]",
    "logger.tags=[[a]]": "must be words (got ['a'])",
    # out of range, and beyond all ranges
    "train.learning_rate=-1": "must be >= 0 (got -1.0)",
    "train.learning_rate=1e999": "must be a finite number (got inf)",
    "train.epochs=nan": "must be a finite number (got nan)",
    "train.epochs=inf": "must be a finite number (got inf)",
    "train.warmup_ratio=nan": "must be a finite number (got nan)",
    "train.max_steps=-3": "must be >= 1 (got -3)",
    "train.max_steps=99999999999999999999999999": "must be <= 2147483647 (got 99999999999999999999999999)",
    "train.batch_size=99999999999999999999999999": "must be <= 2147483647 (got 99999999999999999999999999)",
    "train.eval_steps=0": "must be >= 1 (got 0)",
    "train.save_minutes=-1": "must be >= 0 (got -1.0)",
    "train.save_minutes=nan": "must be a finite number (got nan)",
    "seed=4294967296": "must be from 0 to 4294967295 (got 4294967296)",
    "dataset.eval_share=nan": "must be a finite number (got nan)",
    "dataset.max_eval_samples=0": "must be >= 1 (got 0)",
    "target.alpha=inf": "must be a finite number (got inf)",
    "target.lora_dropout=nan": "must be a finite number (got nan)",
    "target.ranks.q=0": "must be a whole number from 1 to 65536 (got 0)",
    "target.ranks.q=99999999999999999999999999": "must be a whole number from 1 to 65536 (got 9999999999",
    "runs_dir=' '": "must be a folder (got ' ')",
    "runs_dir='a\0b'": "must be a folder (got 'a\\x00b')",
    "runs_dir='~nosuchuser/runs'": "must be a folder (got '~nosuchuser/runs')",
    # groups, lists and braces where they do not go
    "target.ranks=null": "'target.ranks' is a group of settings",
    "target.ranks={nope: 1}": "there is no setting 'target.ranks.nope'",
    "target.ranks={q: [1]}": "must be a whole number (got '[1]')",
    "target.ranks.q.x=1": "must be a whole number (got '{}')",
    "target.auto=plop": "'target.auto' is a group of settings",
    "target.auto.method=random": "must be one of plop, eva, kappa (got 'random')",
    "target.auto.method=plop": "cannot be combined with target.auto.method",
    "target.auto.nope=1": "target.auto has: method",
    "target.modules=1": "must be a dictionary (got 1)",
    "target.modules=null": "must be a dictionary (got null)",
    "target.modules=[lm_head]": "must be a dictionary (got [lm_head])",
    "target.modules={lm_head: eight}": "must be a whole number (got 'eight')",
    "target.modules={lm_head: null}": "must be a whole number (got null)",
    "target.modules={lm_head: 1.5}": "must be a whole number (got '1.5')",
    "target.modules={lm_head: [8]}": "must be a whole number from 1 to 65536 (got [8])",
    "target.modules={lm_head: 0}": "must be a whole number from 1 to 65536 (got 0)",
    "target.modules={1: 8}": "put this one in quotes",
    "target.modules.a.b=8": "target.modules.a",
    "target.budget=-5": "neither a number of parameters nor a strategy",
    "target.budget=10X": "neither a number of parameters nor a strategy",
    "target.budget=[1]": "must be a number or a name (got '[1]')",
    "target.budget={a: 1}": "must be a number or a name (got '{'a': 1}')",
    "target.budget=true": "must be a number or a name (got 'True')",
    "target.budget=''": "neither a number of parameters nor a strategy",
    "target.budget=auto_plop": "own size is not fixed",
    f"target.budget={'9' * 400}": "neither a number of parameters nor a strategy",
    f"target.budget={'x' * 300}": "neither a number of parameters nor a strategy",
    "target.budget_strategy={a: 1}": "there is no setting 'target.a'",
    "target.budget_strategy={ranks: {q: x}}": "must be a whole number (got 'x')",
    "target.budget_strategy={ranks: {q: -1}}": "must be a whole number from 1 to 65536 (got -1)",
    "model.roles=[q]": "must be a dictionary (got [q])",
    "model.roles={q: null}": "must be text (got null)",
    "model.architecture=1": "must be a dictionary (got 1)",
    "dataset.columns=[a]": "must be a dictionary (got [a])",
    "dataset.columns={prompt: null}": "must be text (got null)",
    "dataset.options.min_templates=x": "must be of type int (got 'x')",
    "dataset.options.eval_share=nan": "must be finite (got nan)",
    "train.sft=1": "must be a dictionary (got 1)",
    "train.sft=[1]": "must be a dictionary (got [1])",
    "train.sft.weight_decay=[1]": "is not what SFTConfig takes",
    "train.sft.max_grad_norm=nan": "nan is not what SFTConfig takes",
    "train.sft.nope.deep=1": "SFTConfig has no 'nope'",
    "train.sft.hub_token=x": "a run stays on this machine",
    # choices
    "target=null": "must name a choice",
    "target=1": "must name a choice",
    "model=null": "must name a choice",
    "logger=null": "Did you mean logger=none?",
    "target=": "there is no target ''",
    "target=../q_v": "there is no target '../q_v'",
    "model=[smollm2,gpt2]": "cannot be combined with model.package",
    "experiment=nope": "there is no experiment 'nope'",
    "hydra/launcher=nope": "there is no hydra/launcher 'nope'",
    # words that do something else than was meant
    "~target.ranks": "every run needs it",
    "~train.learning_rate": "every run needs it",
    "~nope": "there is no such setting",
    "~seed=1": "its value is 0",
    "+seed=1": "the config has this setting",
    "+target=q_v": "is chosen twice",
    "++nope.deep=1": "there is no such setting",
    "seed@x=1": "there is no such group",
    "@seed=1": "must name a choice",
    "=1": "must name a choice",
    "seed=1,2": "must be one value for one run (got several)",
    "seed=range(1,3)": "must be one value for one run (got several)",
    "target=q_v,v_o": "must be one value for one run (got several)",
    # what cannot be read at all
    "seed": "cannot be read",
    "{}": "cannot be read",
    "seed=1=2": "cannot be read",
    "séed=1": "cannot be read",
    "seed=🦙": "cannot be read",
    "seed=\0": "cannot be read",
    "seed=\udcff": "cannot be read",
    "seed=nope(1)": "cannot be read",
    "target..ranks=1": "cannot be read",
    f"seed={'[' * 1500}{']' * 1500}": "nested too deeply",
    f"{'x' * 5000}=1": "File name too long",
    # references that lead nowhere
    "seed=${nope}": "Interpolation key 'nope' not found",
    "seed=${seed}": "Recursive interpolation",
    "seed=${oc.env:NO_SUCH_VARIABLE}": "NO_SUCH_VARIABLE",
    "target.budget=???": "must be given",
}


@pytest.fixture(scope="module", autouse=True)
def _fields():
    """TRL is imported once, which takes seconds, to know what SFTConfig takes."""
    sft_fields()


@pytest.mark.parametrize(("word", "says"), WORDS.items(), ids=[word[:40] for word in WORDS])
def test_a_word_that_means_nothing_is_told(word, says):
    with told(says, ConfigError):
        compose([word])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["target=null"], "must name a choice"),
        (["--resolve"], "--resolve"),
        (["--config-dir", "no/such/folder"], "not found"),
        (["--config-path", "no/such/folder"], "--config-path"),
        (["-m", "seed=interval(0,1)"], "BasicSweeper does not support"),
        (["-m", "hydra.sweeper.max_batch_size=0", "seed=1,2"], "config cannot be read"),
        ([f"seed={'[' * 1500}{']' * 1500}"], "nested too deeply"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_the_command_tells_it_on_stderr(words, says, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_train(monkeypatch, *words, "dry_run=true") == 2
    out, err = capsys.readouterr()
    assert says in err
    assert clear(err)
    assert out == ""


# what a strategy says of layers and parameters is held against a model, when one is there
OF_A_MODEL = {
    "target.layers=null": "'None' names no layers",
    "target.layers=": "'' names no layers",
    "target.layers=[]": "no layer is named",
    "target.layers=[a]": "'a' names no layers",
    "target.layers=-1": "'-1' names no layers",
    "target.layers=1.5": "'1.5' names no layers",
    "target.layers=[[0,1]]": "'[0, 1]' names no layers",
    "target.layers={a: 1}": "names no layers",
    "target.layers=true": "'True' names no layers",
    "target.layers=nan": "'nan' names no layers",
    "target.layers=every_0": "'every_0' names no layers",
    "target.layers=every_2_from_9": "9 is out of range",
    "target.layers=5-1": "'5-1' names no layers",
    "target.layers=0-999999999": "2 is out of range",  # all of them would not fit into memory
    f"target.layers=0-{'9' * 5000}": "…' names no layers",
    "target.modules.nope=8": "no module of tiny is called so",
    "target.modules.q_proj=8": "these modules play the role 'q'",
    "target.budget=1": "fewer than its smallest ranks cost",
    "target.budget=999999999999999999": "65,536 is the highest",
    "target.ranks.latent=8": "role 'latent' is absent",
}


@pytest.fixture(scope="module")
def modules():
    return map_modules(make_model(), "tiny", "here")


@pytest.mark.parametrize(("word", "says"), OF_A_MODEL.items(), ids=[word[:40] for word in OF_A_MODEL])
def test_a_strategy_that_no_model_has_is_told_by_its_plan(word, says, modules):
    with told(says, PlanError):
        plan_targets(compose([word]).target, modules)


@few
@given(layers=st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=9), st.lists, max_leaves=5))
def test_whatever_stands_for_layers_names_some_or_is_told(layers, modules):
    target = dataclasses.replace(compose_once().target, layers=layers)
    with at_most_told():
        plan_targets(target, modules)


KNOWN = ["seed", "target", "target.ranks", "target.ranks.q", "target.layers", "target.modules", "target.budget",
         "target.auto", "target.auto.method", "model.roles", "model.architecture", "train", "train.sft",
         "train.sft.optim", "train.epochs", "dataset", "dataset.columns", "logger", "logger.tags", "runs_dir",
         "hydra", "hydra.run.dir", "nope", ""]  # fmt: skip
MARKS = st.sampled_from(["", "", "", "+", "++", "~"])
VALUES = st.text(max_size=6) | st.sampled_from(
    ["null", "true", "-1", "0", "1e400", "nan", "[1,[2]]", "{a: {b: c}}", "'x'", "${seed}", "???", "1,2", "[]", "{}"]
)


@few
@given(mark=MARKS, key=st.sampled_from(KNOWN) | st.text(max_size=6), value=VALUES)
def test_whatever_is_written_is_a_config_or_is_told(mark, key, value):
    with at_most_told():
        compose([f"{mark}{key}={value}"])


def compose_once(found: list[RunConfig] = []) -> RunConfig:  # noqa: B006
    found.extend([] if found else [compose()])
    return found[0]
