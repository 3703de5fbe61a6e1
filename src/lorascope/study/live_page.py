"""A study's page while it runs, kept in memory: whoever asks gets bytes that are there already."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lorascope.errors import LorascopeError, first_line
from lorascope.records.record import FILE as RECORD
from lorascope.records.store import CONFIG, HISTORY, PREDICTIONS
from lorascope.records.study_record import FILE, read_study
from lorascope.reports.findings import find
from lorascope.reports.page import Served, page_of, render, render_section, vega
from lorascope.reports.page.live_sections import RunNow, at_work, now, run_sections
from lorascope.reports.page.sections import Section
from lorascope.reports.page.values import looks_of
from lorascope.study.progress import Progress, Reader, look
from lorascope.study.watch import fitting, total, words

EVERY = 2.0  # seconds between two looks at the folder, while somebody asks
STALE = 10.0  # seconds after which a first request waits for a look
PATIENCE = 5.0  # seconds that it waits at most
PACE = 50  # a rendering is not repeated before so many times what it took of a core: it takes 2 % of one
SHORTEST = 4.0  # seconds between two renderings
AT_ONCE, RUN_PAGES = 12, 64  # runs in the open table; pages of runs that are kept
RAW = (HISTORY, RECORD, CONFIG)  # of a run, as they lie there

Mark = tuple[tuple[str, int, int], ...]  # names, times and sizes of files


def mark(*files: Path) -> Mark:
    """What tells whether files have changed; one that is not there is left out."""
    found = []
    for file in files:
        try:
            at = os.stat(file)
        except OSError:
            continue
        found.append((str(file), at.st_mtime_ns, at.st_size))
    return tuple(found)


def version_of(found: Mark) -> str:
    """A short name of it."""
    return hashlib.sha256(repr(found).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Content:
    """A page as it is sent: whole, or without the charts' script, which who replaces the content has already."""

    version: str
    page: bytes
    part: bytes


def content(version: str, text: str) -> Content:
    """Both forms of a page."""
    return Content(version, text.encode(), text.replace(vega(), "").encode())


class OutsideError(Exception):
    """A place that does not lie in the study's folder."""


class LivePage:
    """The pages of a study and of its runs.

    A thread looks at the folder as long as somebody asks, every two seconds, and renders the study's page anew when a
    record or the history of a run at work has changed. Requests read what it left.

    Args:
        folder: the study's.
        nonce: of the pages' scripts.
        mixed: whether runs of differing fingerprints may be compared.

    Raises:
        RunError: when there is no study, or it cannot be read.
    """

    def __init__(self, folder: Path, nonce: str, *, mixed: bool = False) -> None:
        self.folder, self.nonce, self.mixed = folder, nonce, mixed
        self.reader = Reader(folder)
        self.study = read_study(folder)
        self.rows: Mapping[str, RunNow] = {}
        self.due, self.looked = 0.0, 0.0
        self.mark: Mark = ()
        self.trouble = ""
        self.runs: OrderedDict[tuple[str, str], tuple[float, Content]] = OrderedDict()
        self.rendering, self.told, self.wanted = threading.Lock(), threading.Condition(), threading.Event()
        self.shown: Content
        self.state: dict[str, object]
        self._look()
        threading.Thread(target=self._follow, name="live page", daemon=True).start()

    def _follow(self) -> None:
        while True:
            self.wanted.wait()  # nobody asks: nothing is read
            self.wanted.clear()
            try:
                self._look()
                self.trouble = ""
            except Exception as error:  # a file that is being written, or damaged: what was shown stays
                told = error.problem if isinstance(error, LorascopeError) else first_line(error)
                self.trouble = f"This is not the newest: {told}"
                self.state = self.state | {"trouble": self.trouble}
            with self.told:
                self.looked = time.monotonic()
                self.told.notify_all()
            time.sleep(EVERY)

    def _look(self) -> None:
        """Read what has changed, and render what is seen of it."""
        progress = look(self.reader, time.time())
        study = read_study(self.folder)
        plans = {run.name: run for run in study.runs}
        known = [one for one in progress.runs if one.name in plans]
        rows = {one.name: RunNow(plans[one.name], one.state, words(one)) for one in known}
        self.study, self.rows = study, rows
        working = [name for name, row in rows.items() if row.state == "running"]
        files = [self.folder / FILE, *(self.folder / name / RECORD for name in rows)]
        seen = mark(*files, *(self.folder / name / HISTORY for name in working))
        if seen != self.mark and time.monotonic() >= self.due:
            self._render(progress, version_of(seen))
            self.mark = seen
        self.state = {
            "version": self.shown.version, "now": render_section(study, self._now(progress)), "trouble": "",
            "line": f"Live: {total(progress)}", "finished": progress.finished,
        }  # fmt: skip
        self.looked = time.monotonic()

    def _now(self, progress: Progress) -> Section:
        some = [self.rows[one.name] for one in fitting(progress.runs, AT_ONCE) if one.name in self.rows]
        return now(some, len(self.rows) - len(some), total(progress), lambda name: f"./{quote(name, safe='')}/")

    def _render(self, progress: Progress, version: str) -> None:
        """Make the study's page anew."""
        first, began = not self.mark, time.thread_time()
        live = Served(version, "./state", self.nonce)
        with self.rendering:
            found = find(self.folder, mixed=self.mixed, read=lambda study, _: self.reader.records(study))
            before = [self._now(progress)]
            if section := at_work(self.folder, [*self.rows.values()], looks_of(found.study)):
                before.append(section)
            self.shown = content(version, page_of(found, live=live, before=before))
        cost = 0.0 if first else time.thread_time() - began  # the first one imports all that it needs
        self.due = time.monotonic() + max(SHORTEST, PACE * cost)

    def ask(self) -> None:
        """Say that somebody looks; after a silence, wait until the folder was looked at."""
        asked = time.monotonic()
        self.wanted.set()
        if asked - self.looked > STALE:
            with self.told:
                self.told.wait_for(lambda: self.looked >= asked, PATIENCE)

    def state_of(self, run: str | None) -> bytes:
        """The state as JSON: of the study's page, or of a run's.

        Raises:
            KeyError: when the study has no such run.
        """
        self.ask()
        if run is None:
            return json.dumps(self.state).encode()
        row = self.rows[run]
        line = f"Live: {row.state} {row.words}".rstrip()
        version = version_of(self._files(run))
        ended = row.state not in ("running", "queued")
        told = {"version": version, "now": "", "trouble": self.trouble, "line": line, "finished": ended}
        return json.dumps(told).encode()

    def page(self) -> Content:
        """The study's page."""
        self.ask()
        return self.shown

    def run_page(self, name: str, query: Mapping[str, str]) -> Content:
        """A run's page, rendered when its files have changed, and not more often than every few seconds.

        Raises:
            KeyError: when the study has no such run.
            OutsideError: when its folder lies elsewhere.
        """
        self.ask()
        row = self.rows[name]
        for file in (*RAW, *PREDICTIONS):
            self.inside(name, file)
        key = (name, json.dumps(query, sort_keys=True))
        with self.rendering:
            version, at = version_of(self._files(name)), time.monotonic()
            made, kept = self.runs.get(key, (0.0, None))
            if kept is None or (kept.version != version and at - made > EVERY):
                kept = content(version, self._run_text(row, version, query))
                self.runs[key] = (at, kept)
                while len(self.runs) > RUN_PAGES:
                    self.runs.popitem(last=False)
            return kept

    def _run_text(self, row: RunNow, version: str, query: Mapping[str, str]) -> str:
        run, study = row.run, self.study
        live = Served(version, f"../state?run={quote(run.name, safe='')}", self.nonce, back=True)
        record = self.reader.records(study).get(run.name)
        made = run_sections(self.folder / run.name, study, row, record, looks_of(study), query)
        about = f"{run.stage} run of {run.arm} on {run.task}, seed {run.seed}"
        return render(study, run.name, about, made, ("log", "the log"), {}, live=live)

    def _files(self, name: str) -> Mark:
        return mark(*(self.folder / name / file for file in (RECORD, HISTORY, *PREDICTIONS)))

    def raw(self, name: str, file: str) -> bytes:
        """A file of a run as it is.

        Raises:
            KeyError: when the study has no such run, or it is no file that is shown.
            OutsideError: when it lies elsewhere.
            OSError: when it cannot be read.
        """
        self.ask()
        _ = self.rows[name]
        if file not in RAW:
            raise KeyError(file)
        return self.inside(name, file).read_bytes()

    def inside(self, *parts: str) -> Path:
        """A path in the study's folder, links followed.

        Raises:
            OutsideError: when it leads out of it.
        """
        home = os.path.realpath(self.folder)
        place = os.path.realpath(os.path.join(home, *parts))
        if place != home and not place.startswith(home.rstrip(os.sep) + os.sep):
            raise OutsideError(*parts)
        return Path(place)
