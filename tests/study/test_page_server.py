"""A served page is read over HTTP as a browser and as a stranger would: it follows its study and gives nothing else."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lorascope.cli.main import main
from lorascope.errors import ConfigError
from lorascope.records.record import Status
from lorascope.reports.findings import find
from lorascope.reports.page import page_of
from lorascope.study import live_page
from lorascope.study.page_server import HOST, opened
from reports.made_studies import HOSTILE, a_record, around, history, hostile, keep, make

SECRETS = "kept elsewhere"


class Client:
    """Speaks HTTP to a server, and sends paths as they are: no client in between tidies them."""

    def __init__(self, server) -> None:
        self.server, self.port = server, server.server_port

    def ask(self, path, method="GET", token=True, **heads):
        line = http.client.HTTPConnection(HOST, self.port, timeout=30)
        heads = {name.replace("_", "-"): value for name, value in heads.items()}
        if token:
            heads.setdefault("Cookie", f"{self.server.cookie}={self.server.token}")
        line.putrequest(method, path, skip_host="Host" in heads)
        for name, value in heads.items():
            line.putheader(name, value)
        line.endheaders()
        answer = line.getresponse()
        body = answer.read().decode()
        line.close()
        return answer.status, body, answer.headers

    def text(self, path):
        status, body, _ = self.ask(path)
        assert status == 200, (path, status)
        return body

    def state(self, run=""):
        return json.loads(self.text(f"/state?run={run}" if run else "/state"))

    def until(self, well, path="/state"):
        """The answer once it is as it should be."""
        deadline = time.monotonic() + 20
        while not well(found := self.text(path)):
            assert time.monotonic() < deadline, found[:2000]
            time.sleep(0.05)
        return found


@pytest.fixture
def at_once(monkeypatch):
    """The server looks and renders as often as it can."""
    monkeypatch.setattr(live_page, "EVERY", 0.02)
    monkeypatch.setattr(live_page, "SHORTEST", 0.0)
    monkeypatch.setattr(live_page, "PACE", 0)


@pytest.fixture
def serving(at_once):
    servers = []

    def start(folder):
        servers.append(opened(folder, 0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return Client(servers[-1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def begun(tmp_path, serving):
    """A study of which one arm is at work and the rest of it has not begun."""
    folder = tmp_path / "study"
    late = [f"{number}-s{number - 4}" for number in range(5, 10)]
    make(folder, {"airports": {"q_v": around(0.3), "ffn": around(0.6)}}, missing=late, finished=None)
    keep(folder, at_work("ffn", 1), "5-s1", history(0.5, 40)[:20])
    return folder, serving(folder)


def at_work(arm, seed):
    made = a_record(arm, "airports", seed, None)
    made.status, made.error = Status.running, None
    made.config["train"]["max_steps"] = 40
    return made


def answers(folder, items=60):
    rows = [
        {
            "stage": stage, "set": name, "item": item, "prompt": f"<i>ask</i> {name} {item}", "gold": f"gold {item}",
            "choice": "", "text": f"{stage} {name} {item}", "exact_match": float(item % 2),
        }
        for stage in ("base", "adapter") for name in ("eval", "control") for item in range(items)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "predictions.parquet")


def test_the_served_page_is_the_written_one_and_a_section_before_it(begun):
    folder, client = begun
    served = client.text("/")
    sections = re.findall(r'<section id="(\w+)".*?</section>', page_of(find(folder)), re.DOTALL)
    assert re.findall(r'<section id="(\w+)"', served) == ["now", "work", *sections]
    verdict = re.compile(r'<section id="verdict".*?<h4>.*?</h4>.*?</p>', re.DOTALL)
    assert verdict.search(served)[0] == verdict.search(page_of(find(folder)))[0]
    part = client.text("/?part=content")
    assert len(part) < len(served) / 5
    assert part.count("<section") == served.count("<section")


def test_a_run_at_work_is_seen_with_its_step_and_its_curve(begun):
    folder, client = begun
    assert "step 20 of 40" in client.state()["now"]
    assert "5-s1: training loss by step, so far" in client.text("/")
    before = client.state()["version"]
    keep(folder, at_work("ffn", 1), "5-s1", history(0.5, 40)[:30])
    found = json.loads(client.until(lambda text: "step 30 of 40" in text and before not in text))
    assert f'data-version="{found["version"]}"' in client.text("/")


def test_records_that_appear_bring_a_verdict(begun):
    folder, client = begun
    assert "<strong>better than</strong>" not in client.text("/")
    for seed, value in around(0.6).items():
        keep(folder, a_record("ffn", "airports", seed, value), f"{seed + 4}-s{seed}", history(0.5))
    found = client.until(lambda text: "<strong>better than</strong>" in text, "/?part=content")
    assert "ffn: training loss" not in found
    client.until(lambda text: '"Live: 10 of 10 runs done' in text)


def test_a_study_file_that_is_damaged_meanwhile_is_told_and_the_page_stays(begun):
    folder, client = begun
    whole = (folder / "study.json").read_text()
    (folder / "study.json").write_text(whole[:100])
    assert "study.json" in json.loads(client.until(lambda text: '"trouble": "This is not' in text))["trouble"]
    assert "Where should LoRA go?" in client.text("/")
    (folder / "study.json").write_text(whole)
    client.until(lambda text: '"trouble": ""' in text)


def test_nothing_is_read_while_nobody_asks(begun, monkeypatch):
    looks = []
    monkeypatch.setattr(live_page, "look", lambda *words: looks.append(words) or 1 / 0)
    time.sleep(0.3)
    assert len(looks) <= 1
    begun[1].text("/")
    begun[1].until(lambda text: "division" in text)
    assert looks


def test_a_runs_page_has_its_log_from_the_end(begun):
    folder, client = begun
    keep(folder, at_work("ffn", 1), "5-s1", [{"step": step, "loss": 1 / step} for step in range(1, 251)])
    client.until(lambda text: 'data-sort="250.0"' in text or 'data-sort="250"' in text, "/5-s1/")
    rows = {
        page: re.findall(r'<th scope="row" data-sort="(\d+)', section(client.text(f"/5-s1/?log={page}"), "log"))
        for page in ("1", "2", "3", "99", "x", "-1")
    }
    assert rows["1"] == [str(step) for step in range(250, 150, -1)] == rows["x"] == rows["-1"]
    assert rows["2"] == [str(step) for step in range(150, 50, -1)]
    assert rows["3"] == [str(step) for step in range(50, 0, -1)] == rows["99"]
    assert client.text("/5-s1/history.jsonl") == (folder / "5-s1" / "history.jsonl").read_text()
    assert client.ask("/5-s1/run.json")[2]["Content-Type"] == "application/json"


def section(text, name):
    return re.search(rf'<section id="{name}".*?</section>', text, re.DOTALL)[0]


def test_answers_are_shown_beside_the_bases_page_by_page(begun):
    folder, client = begun
    assert '<section id="answers"' not in client.text("/5-s1/")
    answers(folder / "0-s1")
    first = section(client.text("/0-s1/"), "answers")
    assert "60 items of the set &#39;eval&#39;" in first
    assert all(f"{stage} eval {item}<" in first for stage in ("base", "adapter") for item in range(25))
    assert "adapter eval 25<" not in first
    assert "&lt;i&gt;ask&lt;/i&gt; eval 0" in first
    last = section(client.text("/0-s1/?answers=3&set=control"), "answers")
    assert re.findall(r">adapter control (\d+)<", last) == [str(item) for item in range(50, 60)]
    assert "of the set &#39;eval&#39;" in section(client.text("/0-s1/?set=../x"), "answers")


def test_answers_that_are_damaged_are_left_out(begun):
    folder, client = begun
    (folder / "0-s1" / "predictions.parquet").write_bytes(b"PAR1 no more")
    assert '<section id="answers"' not in client.text("/0-s1/")
    assert '<section id="log"' in client.text("/0-s1/")


def test_hostile_names_are_text_on_every_page(tmp_path, serving):
    study = hostile(tmp_path)
    client = serving(tmp_path)
    for path in ("/?part=content", f"/{study.runs[0].name}/?part=content"):
        text = client.text(path)
        assert "<img" not in text
        assert text.count("<script") == 6
    assert "<script" not in client.state()["now"]
    assert HOSTILE[0] not in client.state()["now"]


def test_without_the_token_there_is_nothing(begun):
    _, client = begun
    for path in ("/", "/state", "/5-s1/", "/5-s1/history.jsonl", "/nothing", "/?token=", "/?token=wrong"):
        status, body, heads = client.ask(path, token=False)
        assert status == 403
        assert len(body) < 100
        assert "Set-Cookie" not in heads
    for cookie in ("", "lorascope=x", f"{client.server.cookie}=ü", "=;=", f"other={client.server.token}"):
        assert client.ask("/", token=False, Cookie=cookie.encode("utf-8"))[0] == 403
    status, _, heads = client.ask(f"/?token={client.server.token}", token=False)
    assert status == 200
    cookie = heads["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    assert client.ask("/state", token=False, Cookie=cookie.partition(";")[0])[0] == 200
    assert "Set-Cookie" not in client.ask("/")[2]


def test_a_page_of_another_host_gets_nothing_even_with_the_token(begun):
    _, client = begun
    for host in ("example.com", f"example.com:{client.port}", "127.0.0.1.example.com", "0.0.0.0", "", "localhost.evil"):
        assert client.ask("/", Host=host)[0] == 403
    for host in (f"127.0.0.1:{client.port}", "localhost:9999", "LOCALHOST", "[::1]:1", "[::1]"):
        assert client.ask("/state", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "HEAD", "ODD"])
def test_only_get_is_answered(begun, method):
    status, body, heads = begun[1].ask("/", method)
    assert (status, heads["Allow"]) == (405, "GET")
    assert "section" not in body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/../secret.txt", 403), ("/%2e%2e/secret.txt", 403), ("/..%2fsecret.txt", 403), ("/5-s1/%00", 403),
        ("/5-s1/../../secret.txt", 403), ("/5-s1/..%5c..%5csecret.txt", 403), ("/%252e%252e/secret.txt", 404),
        ("//etc/passwd", 404), ("/etc/passwd", 404), ("/5-s1/predictions.parquet", 404), ("/study.json", 404),
        ("/5-s1", 404), ("/5-s1//", 404), ("/9-s5/", 200), ("/no-such-run/", 404), ("/5-s1/adapter/x", 404),
        ("/state/", 404), ("/state?run=nothing", 404), ("/favicon.ico", 404), ("/%ff/", 404), ("/linked/", 404),
        ("/5-s1/.lock", 404),
    ],
)  # fmt: skip
def test_what_is_not_the_studys_is_refused(begun, path, status):
    folder, client = begun
    (folder.parent / "secret.txt").write_text(SECRETS)
    (folder / "linked").symlink_to(folder.parent)
    found, body, _ = client.ask(path)
    assert found == status
    assert SECRETS not in body


def test_links_that_lead_out_of_the_study_are_refused(begun):
    folder, client = begun
    elsewhere = folder.parent / "elsewhere"
    keep(elsewhere, a_record("ffn", "airports", 2, 0.6), "6-s2", [{"step": 1, SECRETS: 1}, {"step": 2, SECRETS: 1}])
    (folder / "6-s2").symlink_to(elsewhere / "6-s2")
    (folder / "5-s1" / "history.jsonl").unlink()
    (folder / "5-s1" / "history.jsonl").symlink_to(elsewhere / "6-s2" / "history.jsonl")
    for path in ("/6-s2/", "/6-s2/history.jsonl", "/6-s2/run.json", "/5-s1/history.jsonl", "/5-s1/"):
        status, body, _ = client.ask(path)
        assert status == 403, path
        assert SECRETS not in body


def test_browsers_are_told_to_load_and_keep_nothing(begun):
    _, client = begun
    for path in ("/", "/state", "/5-s1/", "/nothing"):
        heads = client.ask(path)[2]
        policy = heads["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "http" not in policy
        assert (heads["Cache-Control"], heads["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert (heads["Referrer-Policy"], heads["Access-Control-Allow-Origin"]) == ("no-referrer", None)
    nonce = re.search(r"'nonce-([\w-]+)'", policy)[1]
    scripts = re.findall(r"<script([^>]*)>", client.text("/"))
    assert all("application/json" in one or f'nonce="{nonce}"' in one for one in scripts)


def test_it_listens_on_this_machine_alone(begun):
    assert begun[1].server.socket.getsockname()[0] == "127.0.0.1"
    token = begun[1].server.token
    assert len(token) >= 32
    assert begun[1].server.address == f"http://127.0.0.1:{begun[1].port}/?token={token}"


def test_many_at_once_are_answered_from_memory(begun, monkeypatch):
    _, client = begun
    rendered = []
    monkeypatch.setattr(live_page, "page_of", lambda *words, **more: rendered.append(words))
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(client.ask, ["/", "/state", "/?part=content", "/5-s1/"] * 75))
    assert {status for status, *_ in found} == {200}
    assert len({body for _, body, _ in found[::4]}) == 1
    assert not rendered
    assert len(client.server.live.runs) == 1


def test_who_connects_and_says_nothing_is_in_nobodys_way(begun):
    _, client = begun
    silent = [socket.create_connection((HOST, client.port)) for _ in range(20)]
    assert client.ask("/state")[0] == 200
    for one in silent:
        one.close()


def test_a_port_in_use_is_one_message(begun):
    folder, client = begun
    with pytest.raises(ConfigError) as error:
        opened(folder, client.port)
    assert (
        str(error.value)
        == f"--serve {client.port}: the port is in use.\n  Name another, or take any free one: --serve 0"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--serve", "--json"], "--json does not go with --serve"),
        (["--serve", "0", "--watch"], "--watch does not go"),
        (["--serve", "99999"], "'99999' is no port"),
        (["--serve", "runs/x"], "is no port, 0 to 65535. The study comes first: lorascope report runs/x --serve"),
    ],
)
def test_what_does_not_go_with_it_is_told(tmp_path, capsys, words, told):
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), *words])
    assert told in capsys.readouterr().err


def test_a_folder_without_a_study_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "--serve", "0"])
    assert "holds no study, which --serve is for" in capsys.readouterr().err


def test_the_command_prints_the_address_and_ends_with_ctrl_c(tmp_path):
    make(tmp_path, {"airports": {"q_v": around(0.3), "ffn": around(0.6)}})
    code = "from lorascope.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "report", str(tmp_path), "--serve", "0"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        first = process.stdout.readline()
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]+)\n", first).groups()
        assert "Ctrl-C" in process.stdout.readline()
        line = http.client.HTTPConnection(HOST, int(port), timeout=30)
        line.request("GET", f"/state?token={token}")
        assert json.load(line.getresponse())["finished"] is True
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "ended\n", "")
    assert {path.name for path in Path(tmp_path).iterdir()} == {
        "study.json",
        *(f"{number}-s{1 + number % 5}" for number in range(10)),
    }
