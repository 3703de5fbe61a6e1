"""Opens a report's page in headless Chromium, wide and narrow, light and dark, and says what is wrong with it.

    python scripts/check_report.py [runs/STUDY/report.html] [--screenshots FOLDER]

Without a page it makes one out of a study with hostile names (tests/studies/made_studies.py). It fails on a message of
the console, on a request for anything but the page, on a page that is wider than the window, and on a text that its
chart cuts off; where there is no Chromium, it says so and passes.
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
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZES = {"phone": (390, 844), "desktop": (1440, 900)}
THEMES = ("light", "dark")
PATIENCE = 60  # seconds, for whatever the browser is asked
# what is wider than the window, and which texts lie beyond their chart
LOOK = """(() => {
  const cut = [], wide = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    const box = chart.getBoundingClientRect();
    for (const text of chart.querySelectorAll("text")) {
      const one = text.getBoundingClientRect();
      const beyond = Math.max(box.left - one.left, one.right - box.right, box.top - one.top, one.bottom - box.bottom);
      if (beyond > 1.5) cut.push(`${text.textContent} by ${beyond.toFixed(1)} in ${chart.getAttribute("aria-label")}`);
    }
  }
  const page = document.documentElement;
  for (const one of page.scrollWidth > innerWidth ? document.querySelectorAll("body *") : []) {
    const beyond = one.getBoundingClientRect().right > innerWidth + 1;
    if (beyond && !one.closest(".scroll, nav, pre")) wide.push(`${one.tagName}.${one.className}`);
  }
  return JSON.stringify({
    inner: innerWidth, scroll: page.scrollWidth, height: page.scrollHeight, cut, wide: wide.slice(0, 5),
    charts: document.querySelectorAll("svg.chart").length, paper: getComputedStyle(document.body).backgroundColor,
  });
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
    found = json.loads(browser.ask("Runtime.evaluate", expression=LOOK, returnByValue=True)["result"]["value"])
    if screenshots:
        shot = browser.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=_whole(width, found["height"]))
        (screenshots / f"{page.stem}-{size}-{theme}.png").write_bytes(base64.b64decode(shot["data"]))
    wrong = [*said(browser.events), *requested(browser.events, page)]
    if found["inner"] != width:
        wrong.append(f"the window is {found['inner']} px wide, not {width}")
    if found["scroll"] > found["inner"]:
        wrong.append(f"the page is {found['scroll']} px wide: {', '.join(found['wide'])}")
    if not found["charts"]:
        wrong.append("there is no chart")
    if (sum(map(int, re.findall(r"\d+", found["paper"])[:3])) > 384) != (theme == "light"):
        wrong.append(f"its paper is {found['paper']}")
    return wrong + [f"a text is cut off: {text}" for text in found["cut"]]


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
        page = options.page or made(Path(folder) / "study")
        browser = Browser(program, str(Path(folder) / "profile"))
        try:
            for size in SIZES:
                for theme in THEMES:
                    found = check(browser, page, size, theme, options.screenshots)
                    print(f"{size:<8} {theme:<6} {'well' if not found else f'{len(found)} wrong'}")
                    wrong += [f"{size}, {theme}: {one}" for one in found]
        finally:
            browser.close()
    for one in wrong:
        print(one, file=sys.stderr)
    sys.exit(bool(wrong))


def made(folder: Path) -> Path:
    """The page of a made-up study with hostile names."""
    from rich.console import Console

    from lorascope.studies.study_report import write_report

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from studies.made_studies import hostile  # type: ignore[import-not-found]

    hostile(folder)
    write_report(folder, Console(quiet=True))
    return folder / "report.html"


if __name__ == "__main__":
    main()
