"""The command that serves a run names the right base, adapters and flags; transformers' own server answers with it."""

import importlib.util
import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from delivery.test_answering import plainly
from delivery.test_merge import base_of, trained
from lorascope.cli.main import main
from lorascope.delivery.finished_run import finished_run
from lorascope.delivery.serving import serving
from lorascope.errors import RunError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    base = base_of("tiny", tmp_path_factory.mktemp("serving") / "base", max_position_embeddings=128)
    return base, [finished_run(*trained(base, f"target={name}", "logger=none")) for name in ("q_v", "qv_ffn")]


def test_vllm_serves_several_adapters_of_one_rank_each_on_their_base(home):
    base, runs = home
    found = serving(runs, "vllm", port=8001)
    text = shlex.join(found.words)
    assert f"serve {base} --dtype float32 --host 127.0.0.1 --port 8001" in text
    assert "--enable-lora --max-lora-rank 8 --max-loras 2" in text
    assert text.endswith(" ".join(f"{run.name}={run.folder / 'export-vllm'}" for run in runs))
    assert "--quantization" not in text
    found.prepare()
    for run in runs:
        config = json.loads((run.folder / "export-vllm" / "adapter_config.json").read_text())
        assert (config["r"], config["rank_pattern"]) == (8, {})


def test_a_run_in_4_bit_and_one_with_its_own_template_are_served_so(tmp_path):
    base = base_of("tiny", tmp_path / "base")
    (base / "mine.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    words = ["target=q_v", "quantization=nf4", f"dataset.chat_template={base / 'mine.jinja'}", "logger=none"]
    run = finished_run(*trained(base, *words))
    found = serving([run], "vllm")
    text = shlex.join(found.words)
    assert "--quantization bitsandbytes" in text
    template = Path(found.words[found.words.index("--chat-template") + 1])
    found.prepare()
    assert template.read_text() == (base / "mine.jinja").read_text()


def test_what_cannot_be_served_together_is_refused(home, tmp_path):
    other = finished_run(*trained(base_of("tiny", tmp_path / "base"), "target=q_v", "logger=none"))
    with pytest.raises(RunError, match="were trained on other bases"):
        serving([home[1][0], other], "vllm")
    with pytest.raises(RunError, match="serves one run"):
        serving(home[1], "transformers")
    large = finished_run(*trained(home[0], "target.ranks={q: 600}", "logger=none"))
    with pytest.raises(RunError, match="has rank 600, and vLLM reads up to 512"):
        serving([large], "vllm")


def test_the_command_is_printed_where_no_engine_is(home, capsys, monkeypatch):
    monkeypatch.setattr("lorascope.delivery.serving.installed", list)
    main(["serve", *(str(run.folder) for run in home[1])])
    shown = capsys.readouterr()
    assert "--enable-lora" in shown.out
    assert "vllm is not installed here: pip install vllm" in shown.err
    main(["serve", str(home[1][0].folder), "--engine", "transformers", "--dry-run", "--port", "9"])
    words = shlex.split(capsys.readouterr().out)
    assert words[1:] == ["serve", str(home[1][0].folder / "merged"), "--host", "127.0.0.1", "--port", "9"]
    assert not (home[1][0].folder / "merged").exists()


@pytest.mark.skipif(not importlib.util.find_spec("fastapi"), reason="transformers[serving] is not installed")
def test_transformers_own_server_answers_as_the_run_does(home):
    base, (_, run) = home
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("lorascope")
    command = [program, "serve", run.folder, "--engine", "transformers", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    turns = [{"role": "user", "content": "say 3"}]
    asked = {"model": str(run.folder / "merged"), "messages": turns, "max_tokens": 12, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        for _ in range(120):
            try:
                with urllib.request.urlopen(request, timeout=30) as answered:
                    found = json.load(answered)
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.5)
    finally:
        server.kill()
        server.wait()
    assert found["choices"][0]["message"]["content"] == plainly(base, run.adapter, turns)
