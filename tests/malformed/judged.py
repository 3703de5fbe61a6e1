"""What every malformed input must end in: one message with place, value and remedy, soon."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, currently_in_test_context, settings
from hypothesis import strategies as st

from lorascope.errors import LorascopeError

SECONDS = 5  # of this process's own time, since the machine may be busy with others

# the same examples every time
few = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def clear(text: str) -> bool:
    """Whether a message is for a user."""
    lines = text.strip().splitlines()
    return 0 < len(lines) <= 2 and "Traceback" not in text and " object at 0x" not in text and len(text) < 2000


PAGE = Path(__file__).parents[2] / "docs" / "messages.md"


def general(text: str) -> str:
    """A message without what is this machine's, this moment's or too long to read."""
    text = text.encode("utf-8", "backslashreplace").decode()
    text = re.sub(r"(?<![\w.])/[^\s:,;'\")]*/", "…/", text)
    text = re.sub(r"\b[0-9a-f]{8,64}\b", "…", text)
    return "\n".join(line if len(line) <= 300 else f"{line[:300]}…" for line in text.splitlines())


def listed(error: LorascopeError) -> None:
    """Every message that the tests provoke is on one page, so that they are read together.

    Not those that hypothesis draws: its examples depend on the modules that are loaded.

    With LORASCOPE_MESSAGES=FILE the messages are collected there instead, for scripts/messages.py.
    """
    if currently_in_test_context():
        return
    message = general(str(error))
    if collected := os.environ.get("LORASCOPE_MESSAGES"):
        with open(collected, "a", encoding="utf-8") as file:
            file.write(json.dumps([type(error).__name__, message]) + "\n")
    else:
        assert message in PAGE.read_text(encoding="utf-8"), "docs/messages.md lacks this message: make docs"


@contextmanager
def told(says: str = "", kind: type[LorascopeError] = LorascopeError) -> Iterator[None]:
    """What is done inside ends in an error with place, value and remedy, which holds `says`, and soon."""
    began = time.process_time()
    with pytest.raises(kind) as caught:
        yield
    took = time.process_time() - began
    error = caught.value
    assert error.place.strip()
    assert error.what.strip()
    assert error.remedy.strip()
    assert says in str(error)
    assert clear(str(error))
    assert took < SECONDS
    listed(error)


@contextmanager
def at_most_told() -> Iterator[None]:
    """What is done inside may go well; if it does not, then as `told` has it."""
    began = time.process_time()
    try:
        yield
    except LorascopeError as error:
        told = error
    else:
        told = None
    if told is not None:
        assert told.place.strip()
        assert told.what.strip()
        assert clear(str(told))
    assert time.process_time() - began < SECONDS


def json_values(*words: str) -> st.SearchStrategy[object]:
    """Whatever JSON can hold, and now and then one of these words where a name or text stands."""
    texts = st.sampled_from(words) | st.text(max_size=5) if words else st.text(max_size=5)
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=8,
    )
