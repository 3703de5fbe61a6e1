"""A model hub in a thread, as small as huggingface_hub lets it be: it keeps what is committed."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """`files` by repository; `refuse` is the status that every request gets, where it is not 0."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.tokens: list[str] = []
        self.validated: list[str] = []  # cards
        self.refuse = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def create(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        self.files.setdefault(name, {})
        self.private.setdefault(name, bool(asked.get("private") or asked.get("visibility") == "private"))
        return {"url": f"{self.url}/{name}"}

    def preupload(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        def mode(path: str) -> str:
            return "lfs" if path.endswith((".safetensors", ".gguf")) else "regular"

        files = [
            {"path": one["path"], "uploadMode": mode(one["path"]), "shouldIgnore": False} for one in asked["files"]
        ]
        return {"files": files}

    def batch(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        return {
            "transfer": "basic",
            "objects": [
                one | {"actions": {"upload": {"href": f"{self.url}/blobs/{one['oid']}"}}} for one in asked["objects"]
            ],
        }

    def commit(self, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self.blobs[value["oid"]]
        return {"commitUrl": f"{self.url}/{name}/commit/abc123", "commitOid": "abc123", "success": True}


def handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, value: Any, code: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            body = self._body()
            hub.tokens.append(self.headers.get("Authorization") or "")
            if hub.refuse:
                self._answer({"error": "no"}, hub.refuse)
            elif self.path == "/api/repos/create":
                self._answer(hub.create(json.loads(body)))
            elif self.path == "/api/validate-yaml":
                hub.validated.append(json.loads(body)["content"])
                self._answer({"errors": [], "warnings": []})
            elif found := re.fullmatch(r"/api/models/(.+)/preupload/main(\?.*)?", self.path):
                self._answer(hub.preupload(found[1], json.loads(body)))
            elif found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
                self._answer(hub.batch(found[1], json.loads(body)))
            elif found := re.fullmatch(r"/api/models/(.+)/commit/main(\?.*)?", self.path):
                self._answer(hub.commit(found[1], [json.loads(line) for line in body.splitlines() if line]))
            else:
                self._answer({"error": f"no {self.path}"}, 404)

        def do_PUT(self) -> None:
            hub.blobs[self.path.rpartition("/")[2]] = self._body()
            self._answer({})

        def do_GET(self) -> None:
            self._answer({"sha": "abc123", "id": "x/y", "siblings": []})

    return Handler
