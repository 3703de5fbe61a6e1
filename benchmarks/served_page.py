"""What a thousand requests at once cost a study: the rate of loops that use every core, with them and without.

    python benchmarks/served_page.py [--rounds 4] [--requests 1000] [--loops 2]

`lorascope report STUDY --serve` runs in a process of its own, as it does beside a study. A loop of arithmetic in each
of so many other processes stands for the training; it counts its turns in a window of 20 s, now with the requests (the
page, its content, its state, in turn) and now without, in alternation. Clients run at the lowest priority: the
browsers of a real study are on another machine, or wait. Told are the medians, the change of each pair, and how much of
a core the server took.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
WINDOW = 20.0  # seconds
PATHS = ("/", "/state", "/?part=content", "/state")


def turn(numbers: list[int]) -> int:
    """A little arithmetic."""
    return sum(number * number % 7 for number in numbers)


def loop(turns: Any) -> None:
    """Count turns for ever."""
    numbers = list(range(2000))
    while True:
        turn(numbers)
        turns.value += 1


def cpu_seconds(process: int) -> float:
    """What a process has taken of a core so far; of Linux alone."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def burst(port: int, token: str, requests: int, told: Any) -> None:
    """So many requests at once, from a process that waits for all others; tell the slowest and how many failed."""
    os.nice(19)
    ready = threading.Barrier(requests)

    def one(number: int) -> float:
        ready.wait()
        began = time.perf_counter()
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=WINDOW * 6)
        path = PATHS[number % len(PATHS)]
        line.request("GET", f"{path}{'&' if '?' in path else '?'}token={token}")
        answer = line.getresponse()
        answer.read()
        line.close()
        return time.perf_counter() - began if answer.status == 200 else float("inf")

    with ThreadPoolExecutor(requests) as pool:
        took = sorted(pool.map(one, range(requests)))
    told.send((took[len(took) // 2], took[-1]))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--loops", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    from reports.made_studies import ordinary  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        ordinary(Path(folder), finished=None)
        code = "from lorascope.cli.main import main; main()"
        command = [sys.executable, "-c", code, "report", folder, "--serve", "0"]
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        assert server.stdout
        port, token = re.findall(r":(\d+)/\?token=([\w-]+)", server.stdout.readline())[0]
        turns = [multiprocessing.Value("q", 0, lock=False) for _ in range(options.loops)]
        loops = [multiprocessing.Process(target=loop, args=(one,), daemon=True) for one in turns]
        try:
            for process in loops:
                process.start()
            measured(options.rounds, options.requests, int(port), token, server.pid, turns)
        finally:
            for process in loops:
                process.terminate()
            server.terminate()
            server.wait()


def measured(rounds: int, requests: int, port: int, token: str, server: int, turns: list[Any]) -> None:
    """Print a line for each round and one for all."""
    changes = []
    print("turns/s without, with     change   server's CPU   half of the answers, all of them after")
    for number in range(rounds):
        rates, slow, spent = {}, (0.0, 0.0), 0.0
        for busy in (False, True) if number % 2 else (True, False):
            here, there = multiprocessing.Pipe()
            client = multiprocessing.Process(target=burst, args=(port, token, requests, there))
            before, cpu, began = sum(one.value for one in turns), cpu_seconds(server), time.perf_counter()
            if busy:
                client.start()
            time.sleep(WINDOW)
            rates[busy] = (sum(one.value for one in turns) - before) / (time.perf_counter() - began)
            if busy:
                slow = here.recv()
                client.join()
                spent = cpu_seconds(server) - cpu
        changes.append(rates[True] / rates[False] - 1)
        told = f"{rates[False]:10,.0f} {rates[True]:10,.0f} {changes[-1]:+10.2%} {spent:10.2f} s"
        print(f"{told} {slow[0]:10.2f} s {slow[1]:.2f} s", flush=True)
    print(f"median change {statistics.median(changes):+.2%}")


if __name__ == "__main__":
    main()
