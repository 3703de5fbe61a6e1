"""Serves a study's page on this machine alone: to who has the token, of the study's folder, and nothing is changed."""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import sys
import threading
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from rich.console import Console
from rich.text import Text

from lorascope.errors import ConfigError
from lorascope.study.live_page import Content, LivePage, OutsideError

HOST = "127.0.0.1"
OURS = frozenset(("127.0.0.1", "localhost", "[::1]"))  # as a browser on this machine calls it, through a tunnel too
WAITING, AT_ONCE = 1024, 32  # connections that wait, and that are answered side by side
IDLE = 10.0  # seconds that a connection may take
NICE = 19  # on a machine that is busy, at most 1.5 % of each core are left to it: the runs come first
HTML, JSON, TEXT = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"
ASKED = ("log", "answers", "set")  # of a run's page


class PageServer(ThreadingHTTPServer):
    """Listens on the loopback address.

    Args:
        live: what is served.
        port: where; 0 takes a free one.
        token: what a request must know.

    Raises:
        OSError: when the port cannot be had.
    """

    daemon_threads = True
    request_queue_size = WAITING

    def __init__(self, live: LivePage, port: int, token: str) -> None:
        self.live, self.token = live, token
        self.places = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((HOST, port), PageRequest)

    @property
    def cookie(self) -> str:
        """The cookie's name: cookies do not know of ports, and two studies may be served at once."""
        return f"lorascope-{self.server_port}"

    @property
    def address(self) -> str:
        """What is opened in a browser."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, of which there are not more than so many."""
        self.places.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is nothing to tell of."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class PageRequest(BaseHTTPRequestHandler):
    """One request: is it ours, is it allowed, what is there."""

    server: PageServer
    server_version, sys_version = "lorascope", ""
    timeout = IDLE

    def do_GET(self) -> None:  # http.server's name for it
        """Answer."""
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if _hostname(self.headers.get("Host", "")) not in OURS:
            self._send(403, b"This page is for this machine alone.\n")
        elif not self._known(query):
            self._send(403, b"The token is missing or wrong. Open the address that the command printed.\n")
        else:
            self._answer(unquote(parts.path, errors="replace"), query)

    def _refuse(self) -> None:
        self._send(405, b"Only GET is answered.\n", more={"Allow": "GET"})

    def __getattr__(self, name: str) -> Any:
        """Every other method, by http.server's name for it."""
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def _known(self, query: Mapping[str, str]) -> bool:
        """Whether the token is there, in the address or in the cookie."""
        found = [query.get("token", "")]
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        if self.server.cookie in cookies:
            found.append(cookies[self.server.cookie].value)
        token = self.server.token.encode()
        return any(hmac.compare_digest(one.encode(errors="replace"), token) for one in found)

    def _answer(self, path: str, query: Mapping[str, str]) -> None:
        live, parts = self.server.live, path.split("/")[1:]
        if ".." in parts or "\0" in path or "\\" in path:
            self._send(403, b"This lies outside of the study.\n")
            return
        try:
            match parts:
                case [""]:
                    self._page(live.page(), query)
                case ["state"]:
                    self._send(200, live.state_of(query.get("run")), JSON)
                case [name, ""]:
                    asked = {key: query[key] for key in ASKED if key in query}
                    self._page(live.run_page(name, asked), query)
                case [name, file]:
                    self._send(200, live.raw(name, file), JSON if file.endswith(".json") else TEXT)
                case _:
                    raise KeyError(path)
        except OutsideError:
            self._send(403, b"This lies outside of the study.\n")
        except (KeyError, OSError):
            self._send(404, b"There is no such page.\n")

    def _page(self, found: Content, query: Mapping[str, str]) -> None:
        self._send(200, found.part if query.get("part") == "content" else found.page, HTML)

    def _send(self, status: int, body: bytes, kind: str = TEXT, more: Mapping[str, str] | None = None) -> None:
        # vega makes functions of its expressions: without unsafe-eval no chart is drawn; the nonce keeps all others out
        policy = f"default-src 'none'; script-src 'nonce-{self.server.live.nonce}' 'unsafe-eval'; connect-src 'self'; "
        policy += (
            "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        heads = {
            "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Content-Security-Policy": policy,
            "Cross-Origin-Resource-Policy": "same-origin", **(more or {}),
        }  # fmt: skip
        if status == 200 and "token=" in self.path:
            heads["Set-Cookie"] = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Lax; Path=/"
        self.send_response(status)
        for name, value in heads.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Requests are not told of in the terminal: their addresses may hold the token."""


def _hostname(host: str) -> str:
    """A Host header without its port, which a tunnel may change."""
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() else host).lower()


def opened(folder: Path, port: int, *, mixed: bool = False) -> PageServer:
    """A server that listens already.

    Args:
        folder: the study's.
        port: where it listens; 0 takes a free one.
        mixed: whether runs of differing fingerprints may be compared.

    Raises:
        ConfigError: when the port cannot be had.
        RunError: when there is no study, or it cannot be read.
    """
    live = LivePage(folder, secrets.token_urlsafe(12), mixed=mixed)
    try:
        return PageServer(live, port, secrets.token_urlsafe(24))
    except OSError as error:
        what = "is in use." if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}."
        raise ConfigError(
            f"--serve {port}", f"the port {what}", "Name another, or take any free one: --serve 0"
        ) from error


def serve(folder: Path, out: Console, port: int, *, mixed: bool = False) -> None:
    """Serve a study's page until Ctrl-C.

    Args:
        folder: the study's.
        out: where the address is told.
        port: where it listens; 0 takes a free one.
        mixed: whether runs of differing fingerprints may be compared.

    Raises:
        ConfigError: when the port cannot be had.
        RunError: when there is no study, or it cannot be read.
    """
    with opened(folder, port, mixed=mixed) as server:
        if hasattr(os, "nice"):
            os.nice(NICE)
        try:
            out.print(Text(f"{server.address}\nCtrl-C ends the page; the study goes on."), soft_wrap=True)
            sys.stdout.flush()
            server.serve_forever()
        except KeyboardInterrupt:
            out.print("ended")
