"""A W&B server in a thread, as small as wandb-core lets it be, with switches for what goes wrong with a real one."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
        run["exit_code"] = None
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

    def state_of(self, words: dict[str, Any]) -> dict[str, Any]:
        code = self.runs[words["name"]]["exit_code"]
        state = "running" if code is None else "failed" if code else "finished"
        return {"project": {"run": {"id": words["name"], "name": words["name"], "state": state, "projectId": "1"}}}

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
    "Run": FakeWandb.state_of,
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
