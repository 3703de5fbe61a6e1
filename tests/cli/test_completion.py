"""What Tab offers is what there is."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorascope.cli import MODULES
from lorascope.cli.cmd_completion import complete, script
from lorascope.cli.main import main

CONF = Path(__file__).parents[2] / "conf"
SHELLS = ("bash", "zsh", "fish")


def names(group):
    return {path.relative_to(CONF / group).with_suffix("").as_posix() for path in (CONF / group).rglob("*.yaml")}


def test_the_first_word_is_a_command():
    assert set(complete("lorascope ")) == {"train", *MODULES}
    assert complete(".venv/bin/lorascope comp") == ["compare", "completion"]
    assert complete("lorascope nonsense ") == []


@pytest.mark.parametrize("command", MODULES)
def test_every_flag_of_the_help_is_offered(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert set(complete(f"lorascope {command} --")) == shown


@pytest.mark.parametrize("group", ["target", "model", "dataset", "experiment", "quantization"])
def test_a_groups_choices_are_its_files(group):
    assert {word.removeprefix(f"{group}=") for word in complete(f"lorascope train {group}=")} == names(group)


def test_what_is_chosen_already_is_not_offered_again():
    assert "target=q_v,qkvo" in complete("lorascope train -m target=q_v,qk")
    assert "target=qkvo,qkvo" not in complete("lorascope train -m target=qkvo,")
    assert complete("lorascope train logger=[wandb,tens") == ["logger=[wandb,tensorboard"]


def test_settings_come_level_by_level():
    assert {"train=", "train.", "seed="} <= set(complete("lorascope train "))
    assert "train.batch_size=" in complete("lorascope train train.")
    assert "evaluation.forgetting." in complete("lorascope plan evaluation.")
    assert complete("lorascope train evaluation.forgetting.te") == ["evaluation.forgetting.texts="]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("train dry_run=", {"dry_run=true", "dry_run=false"}),
        ("train device=c", {"device=cuda", "device=cpu"}),
        ("train +seed=", set()),
        ("export RUN --for ", {"peft", "vllm", "llama.cpp"}),
        ("export RUN --for=l", {"--for=llama.cpp"}),
        ("list --status d", {"done"}),
        ("inspect mistral", {"mistral7b", "mistral_small3"}),
        ("ship runs/x max", {"max_forgetting="}),
        ("train --cfg ", {"job", "hydra", "all"}),
        ("doctor ", set()),
    ],
)
def test_values_that_are_few_are_offered(typed, offered):
    assert set(complete(f"lorascope {typed}")) == offered


def test_ones_own_files_are_choices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["init", "own"])
    assert complete("lorascope train --config-dir own experiment=mi") == ["experiment=mine"]
    assert complete("lorascope plan --config-dir=own target=min") == ["target=mine"]
    assert complete("lorascope train experiment=mi") == []


def test_runs_and_studies_below_runs_are_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/alone", "runs/study/arm-one", "elsewhere/other"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    (tmp_path / "runs" / "study" / "study.json").touch()
    assert complete("lorascope merge ") == ["alone", "arm-one"]
    assert complete("lorascope compare alone a") == ["alone", "arm-one"]
    assert complete("lorascope generate --runs elsewhere ") == ["other"]
    assert complete("lorascope ship ") == ["runs/study"]
    assert complete("lorascope train --from ") == ["runs/alone", "runs/study/arm-one"]


@pytest.mark.parametrize("typed", ["train target='q", 'train target="q', "train \\", "", "   "])
def test_a_quote_that_is_open_is_no_error(typed):
    complete(f"lorascope {typed}")
    complete(typed)


@pytest.mark.parametrize("line", ["lorascope ", "lorascope train target=", "lorascope preview --", "lorascope merge "])
def test_nothing_heavy_is_imported_for_an_answer(line):
    code = (
        f"import sys\nfrom lorascope.cli.main import main\nmain(['complete', {line!r}])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'hydra', 'omegaconf', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "reply"),
    [("lorascope prev", "preview"), ("lorascope train target=all_linear_", "all_linear_r4"), ("lorascope zzz", "")],
)
def test_bash_gets_the_part_that_it_completes(typed, reply, tmp_path):
    program = tmp_path / "lorascope"
    code = "from lorascope.cli.main import main; main()"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    program.chmod(0o755)
    asked = (
        f"{script('bash')}\nCOMP_LINE={shlex.quote(typed)} COMP_POINT={len(typed)}\n"
        f"COMP_WORDS=({program} x) COMP_CWORD=1 COMP_WORDBREAKS=$' \\t=:'\n"
        "_lorascope; printf '%s' \"${COMPREPLY[*]}\""
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (reply, "")


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shutil.which(shell)])
def test_the_script_is_written_as_the_shell_wants_it(shell):
    subprocess.run([shell, "-n", "/dev/stdin"], input=script(shell), text=True, check=True, timeout=30)


@pytest.mark.parametrize("shell", SHELLS)
def test_one_command_installs_it_and_a_second_changes_nothing(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    (tmp_path / f".{shell}rc").write_text("alias ll='ls -l'")
    main(["completion", "--install", "-q"])
    file = Path(capsys.readouterr().out.strip())
    assert file.read_text() == script(shell)
    after = (tmp_path / f".{shell}rc").read_text()
    assert after.startswith("alias ll='ls -l'")
    assert (str(file) in after) == (shell != "fish")
    main(["completion", shell, "--install"])
    assert (tmp_path / f".{shell}rc").read_text() == after


def test_a_shell_that_is_not_known_is_one_message(monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    with pytest.raises(SystemExit):
        main(["completion"])
    assert "tcsh" in capsys.readouterr().err
