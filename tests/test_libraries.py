"""Heavy libraries are imported with the collector at rest."""

import gc
import subprocess
import sys

import pytest

from lorascope.console import importing


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def import_while_it_rests() -> None:
    assert not gc.isenabled()
    import no_such_module  # noqa: F401


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_rests_inside_and_is_afterwards_as_it_was(collects):
    before = gc.isenabled()
    try:
        gc.enable() if collects else gc.disable()
        with pytest.raises(ImportError), importing():
            import_while_it_rests()
        assert gc.isenabled() is collects
    finally:
        gc.enable() if before else gc.disable()


def test_in_someone_elses_process_nothing_is_frozen():
    code = (
        "import gc\nfrom lorascope.console import importing\n"
        "with importing(): import email.mime.text\nprint(gc.get_freeze_count())"
    )
    assert in_a_process(code) == "0"


def test_in_its_own_process_what_was_imported_is_frozen_once():
    code = (
        "import gc\nfrom lorascope.console import importing, whole_process\n"
        "with whole_process():\n"
        "    with importing(): import email.mime.text\n"
        "    first = gc.get_freeze_count()\n"
        "    kept = [[] for _ in range(1000)]\n"
        "    with importing(): import email.mime.text\n"
        "    print(first > 1000, gc.get_freeze_count() <= first)\n"
    )
    assert in_a_process(code) == "True True"


def test_when_its_own_process_ends_all_is_frozen_and_no_sooner():
    code = (
        "import atexit, gc\nfrom lorascope.console import whole_process\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"  # the first to be registered is the last
        "with whole_process(): pass\nprint(gc.get_freeze_count())"
    )
    assert in_a_process(code).split() == ["0", "True"]
