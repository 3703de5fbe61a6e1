"""Several data sets as one: how often rows are seen, which sets are asked apart, and what makes another run."""

from collections import Counter

import pytest
import yaml
from omegaconf import OmegaConf

from lorascope.compose import compose, schema, to_run_config
from lorascope.config.schema import as_dict
from lorascope.data.rows import Rows, exchange
from lorascope.data.sources import load_rows, pin, weighted
from lorascope.errors import ConfigError, DataError
from lorascope.records.identity import run_id


def mixed(parts: str, *words: str):
    return compose(["dataset=mixture", f"dataset.parts={parts}", *words])


def test_rows_are_seen_as_often_as_their_weight_says():
    rows = [exchange(f"q {n}", "a") for n in range(10)]
    counts = {weight: Counter(row.prompt for row in weighted(rows, weight)) for weight in (0.5, 1, 2, 2.3, 0.01)}
    assert sum(counts[0.5].values()) == 5
    assert set(counts[0.5].values()) == {1}
    assert counts[1] == Counter(row.prompt for row in rows)
    assert set(counts[2].values()) == {2}
    assert sorted(counts[2.3].values()) == [2] * 7 + [3] * 3
    assert sum(counts[0.01].values()) == 1
    assert weighted(rows, 0.5) == weighted(rows, 0.5)


def test_a_mixture_has_the_parts_rows_and_asks_each_part_apart():
    rows = load_rows(mixed("{airports: {weight: 2, options: {facts: 20}}, home_intents: 0.5}").dataset)
    airports = load_rows(compose(["dataset=airports", "dataset.options.facts=20"]).dataset)
    intents = load_rows(compose(["dataset=home_intents"]).dataset)
    assert len(rows.train) == 2 * len(airports.train) + len(intents.train) // 2
    assert Counter(rows.train[:120]) == Counter([*airports.train, *airports.train])
    assert set(rows.train[120:]) <= set(intents.train)
    assert rows.eval == (*airports.eval, *intents.eval)
    assert rows.probes["airports"] == airports.eval
    assert rows.probes["home_intents"] == intents.eval
    assert "airports: airportsdata" in rows.origin
    assert rows.labels == ()


def test_sets_and_classes_of_the_parts_keep_their_names(monkeypatch):
    yes, other = exchange("is it", "yes"), exchange("what is it", "a cat")
    one = Rows(
        (yes,), (yes,), "one", probes={"reversed": (yes,), "free": (other,)}, labels=("no", "yes"), license="MIT"
    )
    two = Rows((other,), (other,), "two")
    monkeypatch.setattr(
        "lorascope.data.sources._loader", lambda source: lambda **_: {"airports": one, "home_intents": two}[source]
    )
    from lorascope.data import sources

    rows = sources.load(_resolved("{airports: 1, home_intents: 1}"))
    assert set(rows.probes) == {"airports", "airports.reversed", "airports.free", "home_intents"}
    assert rows.labels_of == {"airports": ("no", "yes"), "airports.reversed": ("no", "yes")}
    assert rows.license == "airports: MIT"


def _resolved(parts):
    from lorascope.config.schema import DatasetConfig

    given = {name: {"weight": weight, "source": name} for name, weight in yaml.safe_load(parts).items()}
    return DatasetConfig(source="mixture", parts=given)


def test_metrics_are_those_of_the_parts():
    assert mixed("{sst2: 1, gsm8k: 1, anli: 2}").dataset.metrics == ["accuracy", "macro_f1", "final_number"]
    assert mixed("{sst2: 1}", "dataset.metrics=[chrf]").dataset.metrics == ["chrf"]


def test_files_are_parts_without_a_file_of_settings(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"prompt": "p{n}", "completion": "c"}}\n' for n in range(40)))
    config = mixed(f"{{mine: {{source: file, path: {tmp_path / 'a.jsonl'}, weight: 1}}}}")
    assert len(load_rows(config.dataset).probes["mine"]) == len(load_rows(config.dataset).eval)
    before = pin(config.dataset)
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text() + '{"prompt": "p", "completion": "c"}\n')
    assert pin(config.dataset) != before
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"dataset.parts.mine: dataset.path: a.jsonl, line 1"):
        load_rows(config.dataset)


def test_a_part_of_ones_own_is_found_beside_and_its_later_edits_change_no_queued_run(tmp_path):
    own = tmp_path / "dataset" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("source: airports\noptions: {facts: 9}\n")
    config = compose(["dataset=mixture", "dataset.parts={mine: 1}"], tmp_path)
    found = {"weight": 1, "source": "airports", "name": "mine", "options": {"facts": 9}}
    assert config.dataset.parts == {"mine": found}
    own.unlink()
    again = to_run_config(OmegaConf.merge(schema(), as_dict(config)), {})
    assert again.dataset == config.dataset
    assert run_id(again) == run_id(config)


def test_parts_and_weights_make_another_run():
    names = {run_id(mixed(parts)) for parts in ("{airports: 1}", "{airports: 2}", "{home_intents: 1}")}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dataset=mixture"], "dataset.parts: a mixture needs parts"),
        (["dataset=airports", "dataset.parts={sst2: 1}"], "the source airports has no parts"),
        (["dataset=mixture", "dataset.parts={airport: 1}"], "there is no dataset 'airport'.\n  Did you mean airports?"),
        (["dataset=mixture", "dataset.parts={airports: 0}"], "airports must be > 0 and <= 1000 (got 0.0)"),
        (["dataset=mixture", "dataset.parts={airports: -1}"], "airports must be > 0 and <= 1000 (got -1.0)"),
        (["dataset=mixture", "dataset.parts={airports: often}"], "airports must be > 0 and <= 1000 (got 'often')"),
        (["dataset=mixture", "dataset.parts={airports: nan}"], "airports must be > 0 and <= 1000 (got nan)"),
        (["dataset=mixture", "dataset.parts={airports: true}"], "airports must be > 0 and <= 1000 (got True)"),
        (["dataset=mixture", "dataset.parts={mixture: 1}"], "is a mixture itself"),
        (["dataset=mixture", "dataset.parts={airports: {options: {fact: 1}}}"], "airports: dataset.options.fact"),
        (["dataset=mixture", "dataset.parts={airports: {facts: 1}}"], "dataset.parts.airports: "),
        (["dataset=mixture", "dataset.parts={airports: {eval_share: 3}}"], "airports: dataset.eval_share"),
        (["dataset=mixture", "dataset.parts={file: 1}"], "dataset.parts.file: dataset.path: no data is named"),
        (["dataset=mixture", "dataset.parts={airports: 1}", "dataset.path=x"], "takes no path"),
        (["dataset=mixture", "dataset.parts={airports: 1}", "dataset.prompt='{x}'"], "makes its own rows"),
    ],
)  # fmt: skip
def test_a_mixture_that_cannot_be_is_refused_at_the_door(words, says):
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert says in str(caught.value)
