import pytest

from lorascope.errors import ConfigError
from lorascope.evaluation.external_metrics import check_metrics, metrics_of, pin_metrics
from lorascope.evaluation.metrics import Answer, Needs

CODE = """
def politeness(prediction, prompt):
    return "please" in prediction and "please" not in prompt
politeness.unit, politeness.better = "share of answers", "higher"

def surprise(nats, tokens):
    return nats / tokens
surprise.better = "lower"

def both(prediction, nats):
    return 0.0

def unknown(colour):
    return 0.0

def wordy(prediction):
    return "a lot"

def sideways(prediction):
    return 0.0
sideways.better = "left"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def test_a_function_of_a_file_is_a_metric_with_its_own_unit_and_direction(own):
    polite, surprise = metrics_of(["mine.py:politeness", "mine.py:surprise"])
    assert (polite.name, polite.unit, polite.better, polite.needs) == (
        "politeness", "share of answers", "higher", Needs.text,
    )  # fmt: skip
    assert polite.score(Answer("go", "", text="go please")) == 1
    assert (surprise.better, surprise.needs) == ("lower", Needs.loss)
    assert surprise.score(Answer("", "", nats=6.0, tokens=4)) == 1.5


def test_a_function_of_an_installed_module_is_one_too(own, monkeypatch):
    monkeypatch.syspath_prepend(str(own.parent))
    assert metrics_of(["mine:politeness"])[0].name == "politeness"


def test_an_edited_file_is_another_metric_and_still_found(own):
    (first,) = pin_metrics(["mine.py:politeness"])
    own.write_text(CODE + "\n# more\n")
    (second,) = pin_metrics(["mine.py:politeness"])
    assert first != second
    assert metrics_of([second])[0].name == "politeness"
    assert pin_metrics(["exact_match", "a.b:c"]) == ["exact_match", "a.b:c"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("exact_mach", "Did you mean exact_match?"), ("mine.py:", "names no function"), ("no.py:f", "no file no.py"),
        ("mine.py:a b", "names no function"),
    ],
)  # fmt: skip
def test_a_metric_that_does_not_exist_is_told_at_the_door_without_running_code(name, says, own):
    own.write_text("raise SystemExit")
    with pytest.raises(ConfigError, match=says):
        check_metrics([name])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mine.py:both", "asks for loss and text at once"), ("mine.py:unknown", "asks for 'colour'"),
        ("mine.py:sideways", "better is 'left'"), ("mine.py:none", "cannot be imported: AttributeError"),
        ("no_such_module:f", "cannot be imported: ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_a_function_that_is_no_metric_is_told(name, says, own):
    with pytest.raises(ConfigError, match=says):
        metrics_of([name])


def test_a_metric_that_gives_no_number_is_told(own):
    with pytest.raises(ConfigError, match="gave 'a lot'"):
        metrics_of(["mine.py:wordy"])[0].score(Answer("", ""))
