"""Opens a served page in headless Chromium while its study goes on, and says what is wrong with it.

    python scripts/check_live_page.py [--screenshots FOLDER]

It makes a study (tests/reports/made_studies.py) of which some runs are still to come, serves it, and lets their records
appear. The page must follow without a reload: new states, a new verdict, a new curve. What the reader has scrolled,
opened, sorted and switched off must stay. It fails on a message of the console, on a request to anybody else, and on
what check_report.py calls wrong with the look. Where there is no Chromium, it says so and passes.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from check_report import BROWSERS, DRAWING, LOOK, SIZES, THEMES, Browser, said

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
LATE = ("6-s2", "7-s3", "8-s4", "9-s5")  # runs of the second arm that come while the page is open
FOLLOWING = 20  # seconds, in which the page must have seen what is new
DRAWN = "document.documentElement.dataset.drawn"
# what the reader did, and what has become of it
USED = """(() => {
  window.sameWindow = true;
  document.querySelector("#environment details").open = true;
  const table = document.querySelector("#results table");
  const head = [...table.tHead.rows[0].cells].find((one) => one.textContent.trim() === "parameters");
  head.querySelector("button").click(); head.querySelector("button").click();
  document.querySelectorAll("#learning .legend button")[2].click();
  const metrics = document.querySelector("#metrics");
  scrollTo({ top: metrics.offsetTop + 40, behavior: "instant" });
  document.querySelector("#metrics .legend button").focus({ preventScroll: true });
})()"""
STILL = """(() => {
  const heads = [...document.querySelectorAll("#results table th")];
  const head = heads.find((one) => one.textContent.trim() === "parameters");
  const shown = head.closest("table").tBodies[0];
  const numbers = [...shown.rows].map((row) => Number(row.cells[head.cellIndex].dataset.sort)).filter(isFinite);
  return {
    window: window.sameWindow === true, opened: document.querySelector("#environment details").open,
    sorted: head.ariaSort === "descending" && numbers.every((one, at) => !at || one <= numbers[at - 1]),
    off: document.querySelectorAll("#front .legend button")[2].getAttribute("aria-pressed") === "false",
    focus: document.activeElement === document.querySelector("#metrics .legend button"),
    drawn: document.querySelectorAll(".chart svg.marks").length === document.querySelectorAll(".chart").length,
  };
})()"""
TOP = "document.querySelector('#metrics').getBoundingClientRect().top"
VERDICT = "[...document.querySelectorAll('#verdict strong')].some((one) => one.textContent === 'better than')"
STATE = "[...document.querySelectorAll('#now tbody tr')].map((one) => one.textContent.replace(/\\s+/g, ' ').trim())"


def begun(folder: Path) -> Callable[[], None]:
    """A study that has begun: the reference is done, of the second arm one run, and one is at work.

    Returns:
        What lets the others end.
    """
    from lorascope.records.record import Status
    from reports.made_studies import a_record, around, history, keep, make  # type: ignore[import-not-found]

    values = {"airports": {"q_v": around(0.3), "ffn": around(0.6), "qkvo": around(0.3)}}
    make(folder, values, missing=[*(f"{number}-s{number - 4}" for number in range(6, 10))], finished=None, steps=30)
    answers(folder / "5-s1")
    working = a_record("ffn", "airports", 2, None)
    working.status, working.error = Status.running, None
    keep(folder, working, LATE[0], history(0.5, 40)[:20])

    def ends() -> None:
        for name in LATE:
            seed = int(name[-1])
            keep(folder, a_record("ffn", "airports", seed, around(0.6)[seed]), name, history(0.5, 30))

    return ends


def answers(folder: Path) -> None:
    """A file of answers, as a run leaves it."""
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "stage": stage, "set": name, "item": item, "prompt": f"What is <b>number {item}</b>?",
            "gold": f"gold {item}", "choice": "", "text": f"{stage} says {item}", "exact_match": 1.0,
        }
        for stage in ("base", "adapter") for name in ("eval", "control") for item in range(60)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "predictions.parquet")


def opened(browser: Browser, address: str, size: str, theme: str) -> None:
    """Open a page and wait for its charts."""
    width, height = SIZES[size]
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.ask(f"{domain}.enable")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.ask("Emulation.setDeviceMetricsOverride", **metrics)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    browser.events.clear()
    browser.ask("Page.navigate", url=address)
    browser.wait("Page.loadEventFired")
    browser.until(DRAWN, DRAWING)


def looked(browser: Browser, size: str) -> list[str]:
    """What is wrong with the look."""
    found = browser.value(LOOK)
    wrong = [f"a text is cut off: {text}" for text in found["cut"]]
    if found["scroll"] > SIZES[size][0]:
        wrong.append(f"the page is {found['scroll']} px wide: {', '.join(found['wide'])}")
    if found["drawn"] != found["charts"]:
        wrong.append(f"{found['drawn']} of {found['charts']} charts are drawn")
    return wrong


def asked(events: list[dict[str, Any]], port: int) -> list[str]:
    """Requests to anybody else; the page's own icon is in it."""
    urls = [one["params"]["request"]["url"] for one in events if one.get("method") == "Network.requestWillBeSent"]
    ours = [url for url in urls if url.startswith("data:") or urlparse(url).netloc == f"127.0.0.1:{port}"]
    return [f"it asks {url}" for url in urls if url not in ours]


def followed(browser: Browser, ends: Callable[[], None]) -> list[str]:
    """Use the page, let the runs end, and look again."""
    wrong = []
    if browser.value(VERDICT):
        wrong.append("there is a verdict too early")
    if not any(f"{LATE[0]} running" in row and "step 20" in row for row in browser.value(STATE)):
        wrong.append(f"the run at work is not shown: {browser.value(STATE)}")
    browser.value(USED)
    before = browser.value(TOP)
    began = time.monotonic()
    ends()
    if not browser.until(VERDICT, FOLLOWING):
        return [*wrong, "the verdict does not come"]
    print(f"          a verdict was seen {time.monotonic() - began:.1f} s after the records")
    browser.until(f"{STILL}.drawn", DRAWING)
    wrong += [f"it has lost what the reader did: {name}" for name, well in browser.value(STILL).items() if not well]
    if abs(browser.value(TOP) - before) > 2:
        wrong.append(f"what was read has moved by {browser.value(TOP) - before:.0f} px")
    if browser.value("location.search"):
        wrong.append("the token is still in the address")
    return wrong


def run_page(browser: Browser, address: str, size: str) -> list[str]:
    """A run's page: its log and its answers, page by page."""
    opened(browser, address, size, "light")
    wrong = looked(browser, size)
    rows = "[...document.querySelectorAll('#answers tbody tr')].map((one) => one.textContent)"
    first = browser.value(rows)
    if len(first) != 25 or "What is <b>number 0</b>?" not in first[0] or "adapter says 0" not in first[0]:
        wrong.append(f"the answers are {first[:1]}")
    if browser.value("document.querySelectorAll('#log tbody tr').length") != 30:
        wrong.append("the log has not its 30 lines")
    browser.events.clear()
    browser.value("document.querySelector('#answers a[href*=\"answers=3\"]').click()")
    browser.wait("Page.loadEventFired")
    browser.until(DRAWN, DRAWING)
    if len(browser.value(rows)) != 10 or "number 50" not in browser.value(rows)[0]:
        wrong.append("the last page of answers is another")
    return wrong


def check(browser: Browser, folder: Path, size: str, theme: str, screenshots: Path | None) -> list[str]:
    """What is wrong with a page at this size in this theme."""
    from lorascope.study.page_server import opened as listening

    ends = begun(folder)
    with listening(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened(browser, server.address, size, theme)
        wrong = looked(browser, size) + followed(browser, ends) + looked(browser, size)
        if screenshots:
            height = browser.value("document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": SIZES[size][0], "height": min(height, 16_000), "scale": 1}
            shot = browser.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            (screenshots / f"live-{size}-{theme}.png").write_bytes(base64.b64decode(shot["data"]))
        wrong += said(browser.events) + asked(browser.events, server.server_port)
        wrong += run_page(browser, f"http://127.0.0.1:{server.server_port}/5-s1/", size)
        wrong += said(browser.events) + asked(browser.events, server.server_port)
        opened(browser, server.address, size, theme)
        server.shutdown()
    ended = "document.getElementById('live').textContent.includes('has ended')"
    return wrong if browser.until(ended, FOLLOWING) else [*wrong, "the page does not say that the server has ended"]


def main() -> None:
    """Check at all sizes and in all themes; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshots", metavar="FOLDER", type=Path, help="keep pictures of the page here")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"skipped: none of {', '.join(BROWSERS)} is installed")
        return
    if options.screenshots:
        options.screenshots.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, str(Path(folder) / "profile"))
        try:
            for size, theme in ((size, theme) for size in SIZES for theme in THEMES):
                found = check(browser, Path(folder) / f"{size}-{theme}", size, theme, options.screenshots)
                print(f"live      {size:<8} {theme:<6} {'well' if not found else f'{len(found)} wrong'}")
                wrong += [f"live, {size}, {theme}: {one}" for one in found]
        finally:
            browser.close()
    for one in wrong:
        print(one, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
