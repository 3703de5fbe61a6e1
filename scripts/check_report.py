"""Opens a report's page in headless Chromium, wide and narrow, light and dark, and says what is wrong with it.

    python scripts/check_report.py [runs/STUDY/report.html] [--screenshots FOLDER]

Without a page it makes two, of an ordinary study and of one with hostile names (tests/reports/made_studies.py). It
fails on a message of the console, on a request for anything but the page, on a page that is wider than the window, and
on a text that its chart cuts off. It also uses the page: a dot's tooltip must show the exact value, a legend's entry
must hide its arm, a table's head must sort, by mouse and by keyboard, and every dot must lead to a run's folder. Where
there is no Chromium, it says so and passes.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"phone": (390, 844), "desktop": (1440, 900)}
THEMES = ("light", "dark")
PATIENCE = 60  # seconds, for whatever the browser is asked
DRAWING = 10  # seconds, for all charts of a page
# what is wider than the window, and which texts lie beyond their chart
LOOK = """(() => {
  const cut = [], wide = [];
  for (const chart of document.querySelectorAll(".chart")) {
    const box = chart.getBoundingClientRect();
    for (const text of chart.querySelectorAll("text")) {
      const one = text.getBoundingClientRect();
      const beyond = Math.max(box.left - one.left, one.right - box.right, box.top - one.top, one.bottom - box.bottom);
      if (beyond > 1.5) cut.push(`${text.textContent} by ${beyond.toFixed(1)} in ${chart.parentNode.ariaLabel}`);
    }
  }
  const page = document.documentElement;
  for (const one of page.scrollWidth > innerWidth ? document.querySelectorAll("body *") : []) {
    const beyond = one.getBoundingClientRect().right > innerWidth + 1;
    if (beyond && !one.closest(".scroll, nav, pre")) wide.push(`${one.tagName}.${one.className}`);
  }
  return {
    inner: innerWidth, scroll: page.scrollWidth, height: page.scrollHeight, cut, wide: wide.slice(0, 5),
    charts: document.querySelectorAll(".chart").length, paper: getComputedStyle(document.body).backgroundColor,
    drawn: document.querySelectorAll(".chart svg.marks").length,
  };
})()"""
# the dots of seeds, each with what Vega knows of it; as functions that later expressions call
DOTS = """
window.dotsOf = (chart) => [...chart.querySelectorAll("path")].filter((one) => one.__data__?.href);
window.middle = (one) => {
  one.scrollIntoView({ block: "center", behavior: "instant" });
  const box = one.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
};
[...document.querySelectorAll(".chart")].flatMap(dotsOf).map((one) => one.__data__.href)"""
HOVER = """(() => {
  const dot = dotsOf(document.querySelector("#front .chart"))[0];
  return { at: middle(dot), value: String(dot.__data__.datum.value) };
})()"""
POINT = """(() => {
  const points = [...document.querySelectorAll("#learning .chart path")].filter((one) => one.__data__?.datum?.step);
  const point = points.filter((one) => one.__data__.mark.marktype === "symbol").at(-2);
  return point && { at: middle(point), value: String(point.__data__.datum.mean) };
})()"""
TIP = "(document.querySelector('#vg-tooltip-element.visible')?.textContent ?? '')"
MARKS = "dotsOf(document.querySelector('#front .chart')).filter((one) => one.__data__.datum.arm === arm).length"
ENTRY = (
    """(() => {
  const button = document.querySelector("#front .legend button");
  window.arm = JSON.parse(document.getElementById("arms").textContent)[button.dataset.arm];
  return { at: middle(button), arm, pressed: button.getAttribute("aria-pressed"), marks: """
    + MARKS
    + "};})()"
)
HEAD = """(() => {
  const table = document.querySelector("#results table");
  const head = [...table.tHead.rows[0].cells].find((one) => one.textContent.trim() === "parameters");
  const cells = [...table.tBodies[0].rows].map((row) => row.cells[head.cellIndex].dataset.sort);
  const button = head.querySelector("button");
  const at = middle(button);
  button.focus();
  return { at, sort: head.getAttribute("aria-sort"), cells: cells.filter((one) => one !== undefined).map(Number) };
})()"""


class Browser:
    """A page of headless Chromium, spoken to in its DevTools protocol."""

    def __init__(self, program: str, folder: str) -> None:
        from websockets.sync.client import connect

        self.process = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
                "--hide-scrollbars", f"--user-data-dir={folder}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self.asked = 0
        self.opened = ExitStack()
        self.opened.callback(self.process.wait)
        self.opened.callback(self.process.kill)
        try:
            address = self._address(Path(folder) / "DevToolsActivePort")
            self.socket = self.opened.enter_context(connect(address, max_size=None, open_timeout=PATIENCE))
        except BaseException:
            self.close()
            raise

    def _address(self, told: Path) -> str:
        """The page's own address, once the browser has said on which port it listens."""
        import urllib.request

        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            if told.is_file() and (lines := told.read_text().splitlines()):
                with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=PATIENCE) as answer:
                    pages = [one for one in json.load(answer) if one["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.1)
        raise RuntimeError("the browser did not start")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; events that come meanwhile are kept."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.recv(timeout=PATIENCE))
            if said.get("id") == self.asked:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']['message']}")
                return dict(said["result"])
            self.events.append(said)

    def wait(self, event: str) -> None:
        """Until it has come."""
        while not any(one.get("method") == event for one in self.events):
            self.events.append(json.loads(self.socket.recv(timeout=PATIENCE)))

    def value(self, expression: str) -> Any:
        """What an expression is worth in the page.

        Raises:
            RuntimeError: when it throws.
        """
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", "it throws"))
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = 5) -> Any:
        """An expression's value once it is true, or the last one."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(expression)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def click(self, at: list[float]) -> None:
        """Click with the mouse."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, text="\r", windowsVirtualKeyCode=13)

    def close(self) -> None:
        """End the browser."""
        self.opened.close()


def check(browser: Browser, page: Path, size: str, theme: str, screenshots: Path | None) -> list[str]:
    """What is wrong with the page at this size in this theme."""
    width, height = SIZES[size]
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.ask(f"{domain}.enable")
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.ask("Emulation.setDeviceMetricsOverride", **metrics)
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    browser.events.clear()
    browser.ask("Page.navigate", url=page.absolute().as_uri())
    browser.wait("Page.loadEventFired")
    browser.until("document.documentElement.dataset.drawn", DRAWING)
    found = browser.value(LOOK)
    if screenshots:
        shot = browser.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=_whole(width, found["height"]))
        (screenshots / f"{page.stem}-{size}-{theme}.png").write_bytes(base64.b64decode(shot["data"]))
    used = use(browser, page)
    wrong = [*said(browser.events), *requested(browser.events, page), *used, *filter(None, [followed(browser)])]
    if found["inner"] != width:
        wrong.append(f"the window is {found['inner']} px wide, not {width}")
    if found["scroll"] > found["inner"]:
        wrong.append(f"the page is {found['scroll']} px wide: {', '.join(found['wide'])}")
    if not found["charts"] or found["drawn"] != found["charts"]:
        wrong.append(f"{found['drawn']} of {found['charts']} charts are drawn")
    if (sum(map(int, re.findall(r"\d+", found["paper"])[:3])) > 384) != (theme == "light"):
        wrong.append(f"its paper is {found['paper']}")
    return wrong + [f"a text is cut off: {text}" for text in found["cut"]]


def use(browser: Browser, page: Path) -> list[str]:
    """What does not answer: tooltips, legends, tables, links."""
    try:
        links = browser.value(DOTS)
        wrong = [f"a dot leads to {link}" for link in links if not (page.parent / unquote(link)).is_dir()]
        if not links:
            return ["there is no dot"]
        return wrong + [one for part in (hovered, traced, switched, sorted_) if (one := part(browser))]
    except RuntimeError as error:
        return [f"it cannot be used: {error}"]


def hovered(browser: Browser) -> str:
    """Rest on a seed's dot."""
    dot = browser.value(HOVER)
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=dot["at"][0], y=dot["at"][1])
    tip = browser.until(TIP)
    return "" if dot["value"] in tip else f"the tooltip of {dot['value']} says {tip!r}"


def traced(browser: Browser) -> str:
    """Rest on a point of a learning curve."""
    point = browser.value(POINT)
    if not point:
        return ""
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=point["at"][0], y=point["at"][1])
    tip = browser.until(f"{TIP}.includes({json.dumps(point['value'])}) && {TIP}", 2)
    return "" if tip else f"the tooltip of a curve's {point['value']} says {browser.value(TIP)!r}"


def switched(browser: Browser) -> str:
    """Switch an arm off and on again."""
    before = browser.value(ENTRY)
    browser.click(before["at"])
    off = browser.until(f"{MARKS} === 0") and browser.value(ENTRY)
    browser.click(browser.value(ENTRY)["at"])
    on = browser.until(f"{MARKS} === {before['marks']}")
    well = off and off["pressed"] == "false" and before["marks"] and on
    return "" if well else f"a click in the legend does not hide {before['arm']}, or not bring it back"


def sorted_(browser: Browser) -> str:
    """Sort by a column with the mouse, then the other way with the keyboard."""
    head = browser.value(HEAD)
    browser.click(head["at"])
    up = browser.value(HEAD)
    browser.press("Enter")
    down = browser.value(HEAD)
    well = up["cells"] == sorted(head["cells"]) and down["cells"] == sorted(head["cells"], reverse=True)
    well = well and [one["sort"] for one in (head, up, down)] == ["none", "ascending", "descending"]
    return "" if well else f"a table does not sort: {up}, {down}"


def followed(browser: Browser) -> str:
    """Click a seed's dot."""
    if not browser.value("window.dotsOf && document.querySelectorAll('#front .chart').length"):
        return ""
    dot = browser.value(HOVER)
    browser.events.clear()
    browser.click(dot["at"])
    browser.wait("Page.frameNavigated")
    place = browser.until("location.href")
    browser.events[:] = []  # what the folder's own listing asks for and says is not the page's
    return "" if Path(unquote(urlparse(place).path)).is_dir() else f"a click on a dot leads to {place}"


def _whole(width: int, height: int) -> dict[str, float]:
    return {"x": 0, "y": 0, "width": width, "height": min(height, 16_000), "scale": 1}


def said(events: list[dict[str, Any]]) -> list[str]:
    """What the console holds, and errors that nobody caught."""
    found = []
    for event in events:
        told = event.get("params", {})
        if event.get("method") == "Log.entryAdded":
            found.append(f"the console says: {told['entry']['text']}")
        elif event.get("method") == "Runtime.consoleAPICalled":
            found.append(f"the console says: {[one.get('value') for one in told['args']]}")
        elif event.get("method") == "Runtime.exceptionThrown":
            found.append(f"an error: {told['exceptionDetails'].get('exception', {}).get('description')}")
        elif event.get("method") == "Page.javascriptDialogOpening":
            found.append(f"a dialog opened: {told['message']}")
    return found


def requested(events: list[dict[str, Any]], page: Path) -> list[str]:
    """What the page asked for besides itself."""
    urls = [one["params"]["request"]["url"] for one in events if one.get("method") == "Network.requestWillBeSent"]
    return [f"it asks for {url}" for url in urls if url != page.absolute().as_uri()]


def main() -> None:
    """Check a page at all sizes and in all themes; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", type=Path, help="report.html; by default one is made")
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
        pages = [options.page] if options.page else made(Path(folder))
        browser = Browser(program, str(Path(folder) / "profile"))
        try:
            for page, size, theme in product(pages, SIZES, THEMES):
                found = check(browser, page, size, theme, options.screenshots)
                print(f"{page.stem:<9} {size:<8} {theme:<6} {'well' if not found else f'{len(found)} wrong'}")
                wrong += [f"{page.stem}, {size}, {theme}: {one}" for one in found]
        finally:
            browser.close()
    for one in wrong:
        print(one, file=sys.stderr)
    sys.exit(bool(wrong))


def made(folder: Path) -> list[Path]:
    """The pages of an ordinary study and of one with hostile names."""
    from rich.console import Console

    from lorascope.reports.study_report import write_report

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from reports.made_studies import hostile, ordinary  # type: ignore[import-not-found]

    pages = []
    for make in (ordinary, hostile):
        make(folder / "study" / make.__name__)
        pages.append(folder / "study" / f"{make.__name__}.html")
        write_report(folder / "study" / make.__name__, Console(quiet=True), html=pages[-1])
    return pages


if __name__ == "__main__":
    main()
