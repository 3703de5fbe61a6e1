"""A W&B server in a thread, as small as wandb-core lets it be, and sessions of a run that tell it of steps."""

from __future__ import annotations

import functools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "0123456789abcdef" * 2 + "DISTINCT"


class FakeWandb:
    """`state` is "up", "hang" (takes the call and never answers), "500" or "401"; `down()` closes the port.

    `spare` names by a pattern what is answered all the same. `runs` holds what arrived, by the run's id.
    """

    def __init__(self) -> None:
        self.spare = ""
        self.runs: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.open: set[socket.socket] = set()
        self.port = 0
        self.up()

    def up(self) -> None:
        self.state = "up"
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler(self))
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        self.state = "down"
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def turn(self, state: str) -> None:
        if state == "down":
            self.down()
        elif self.state == "down":
            self.up()
        self.state = state

    def run(self, name: str) -> dict[str, Any]:
        empty = {"config": {}, "lines": [], "summary": {}, "exit_code": None, "files": set()}
        return self.runs.setdefault(name, empty)

    def steps(self, name: str) -> dict[int, dict[str, Any]]:
        """A run's rows. W&B keeps one row of a step, of those that it is sent the last (wandb pull request 12668)."""
        return {row["_step"]: row for row in self.runs[name]["lines"]}

    # what the GraphQL operations and the file stream answer

    def viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def upsert(self, words: dict[str, Any]) -> dict[str, Any]:
        run = self.run(words["name"])
        run["config"] |= json.loads(words.get("config") or "{}")
        run |= {key: words[key] for key in ("displayName", "groupName", "tags") if words.get(key)}
        project = {"id": "1", "name": words["project"], "entity": {"id": "1", "name": words.get("entity") or "me"}}
        names = {"id": words["name"], "name": words["name"], "displayName": run.get("displayName"), "project": project}
        return {"upsertBucket": {"bucket": names | {"historyLineCount": len(run["lines"])}, "inserted": True}}

    def resume(self, words: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(words["name"])
        bucket = run and {
            "id": words["name"], "name": words["name"], "summaryMetrics": json.dumps(run["summary"]),
            "displayName": run.get("displayName"), "config": json.dumps(run["config"]), "tags": run.get("tags", []),
            "historyLineCount": len(run["lines"]), "eventsLineCount": 0, "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run["lines"][-1:]]), "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        return {"model": {"id": "1", "name": "p", "entity": {"id": "1", "name": "me"}, "bucket": bucket}}

    def create_files(self, words: dict[str, Any]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/upload/{words['run']}"
        files = [{"name": name, "uploadUrl": f"{url}/{name}"} for name in words["files"]]
        return {"createRunFiles": {"runID": words["run"], "uploadHeaders": [], "files": files}}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        run = self.run(name)
        for file, chunk in sent.get("files", {}).items():
            if file == "wandb-history.jsonl":
                run["lines"][chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]
            elif file == "wandb-summary.json":
                run["summary"] = json.loads(chunk["content"][-1])
        if sent.get("complete"):
            run["exit_code"] = sent["exitcode"]


OPERATIONS = {
    "Viewer": FakeWandb.viewer,
    "UpsertBucket": FakeWandb.upsert,
    "RunResumeStatus": FakeWandb.resume,
    "CreateRunFiles": FakeWandb.create_files,
}


def handler(fake: FakeWandb) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            fake.open.add(self.connection)
            with suppress(OSError):
                super().handle()
            fake.open.discard(self.connection)

        def finish(self) -> None:
            with suppress(OSError):
                super().finish()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            words = json.loads(body) if self.path.endswith(("graphql", "file_stream")) else {}
            operation = re.search(r"(?:query|mutation)\s+(\w+)", words.get("query", ""))
            name = operation[1] if operation else self.path
            while fake.state == "hang" and not (fake.spare and re.search(fake.spare, name)):
                time.sleep(0.05)
            if fake.state != "up" and not (fake.spare and re.search(fake.spare, name)):
                status = int(fake.state) if fake.state.isdigit() else 503
                return self.answer({"errors": [{"message": f"said the fake: {fake.state}"}]}, status)
            fake.requests.append(name)
            if operation:
                known = OPERATIONS.get(name, lambda *_: {})
                return self.answer({"data": known(fake, words.get("variables") or {})})
            if match := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", name):
                fake.stream(match[1], words)
            elif match := re.search(r"/upload/([^/]+)/(.+)", name):
                fake.run(match[1])["files"].add(match[2])
            return self.answer({})

        def do_PUT(self) -> None:
            self.do_POST()

        def answer(self, words: Any, status: int = 200) -> None:
            body = json.dumps(words).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


# a run that tells W&B of steps, without a model


@contextmanager
def logged_in(monkeypatch: Any) -> Iterator[FakeWandb]:
    """A server that this process is logged in to; W&B's own process ends with it."""
    import wandb

    from lorascope.records.trackers import wandb as tracker

    wandb.teardown()  # it remembers the server that an earlier test named
    fake = FakeWandb()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{fake.port}")
    monkeypatch.setattr(tracker, "INIT_SECONDS", 1)
    monkeypatch.setattr(tracker, "FINISH_SECONDS", 1)
    try:
        yield fake
    finally:
        fake.turn("up")
        wandb.teardown()
        fake.down()


@functools.cache
def config() -> Any:
    from lorascope.compose import compose

    return compose(["logger=wandb"])


def a_record(status: str = "running") -> Any:
    from lorascope.config import as_dict
    from lorascope.records.record import RunRecord, Status

    plan = {"modules": [dict.fromkeys(("name", "layer", "role", "rank", "alpha", "scale", "parameters"), 1)]}
    metrics = {"eval_loss": {"value": 0.5, "base": 1.5}} if status == "done" else {}
    return RunRecord(
        run_id="1", run_hash="1", name="a-run", status=Status(status), config=as_dict(config()), started="", plan=plan,
        metrics=metrics,
    )  # fmt: skip


def begin(folder: Path, warned: list[str] | None = None) -> Any:
    """The trackers of a session in the run's folder; one that could not start fails the test, unless it is listened."""
    from lorascope.records.trackers import open_trackers

    folder.mkdir(parents=True, exist_ok=True)
    told: list[str] = [] if warned is None else warned
    trackers = open_trackers(config().logger, a_record(), folder, {"eval_loss": "lower"}, told.append)
    assert len(trackers.trackers) == 2 or warned is not None, told
    return trackers


def log(trackers: Any, *steps: int, loss: float = 1.0) -> None:
    for step in steps:
        trackers.log(step, {"loss": loss + step})


def arrive(server: FakeWandb, rows: int) -> None:
    """Waits until the server has so many rows."""
    deadline = time.monotonic() + 20
    while sum(len(run["lines"]) for run in server.runs.values()) < rows:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finish(trackers: Any) -> str:
    """Ends the session and its process well; the line that the user reads."""
    import wandb

    trackers.finish(a_record("done"))
    told = "\n".join(trackers.notes)
    wandb.teardown()  # as at the end of a process: by then all is written
    return told


def kill_core(flushed: bool = True) -> None:
    """W&B's own process is killed, by default after it has written what it was told."""
    import wandb

    time.sleep(1.3 if flushed else 0)
    core = wandb.setup()._connection._proc._process
    core.kill()
    core.wait()
    time.sleep(0.2)


def cut(flushed: bool = True) -> None:
    """The session's process is killed: W&B's own then ends at once too, and neither writes nor sends any more."""
    import wandb

    kill_core(flushed)
    with suppress(Exception, SystemExit):
        wandb.teardown()
