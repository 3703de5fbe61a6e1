import json

import pytest
import torch

from helpers import make_model, make_tokenizer
from lorascope.config.schema import EvaluationConfig
from lorascope.errors import ConfigError
from lorascope.evaluation.external_metrics import check_harness, run_harness

pytestmark = pytest.mark.slow

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

ROWS = [{"asked": f"thing {number} is", "choices": ["red", "blue"], "right": number % 2} for number in range(8)]


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task of the harness on a file of this machine."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    file = tmp_path / "colours.yaml"
    file.write_text(f"""
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "rows.jsonl"}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{asked}}}}"
doc_to_choice: choices
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""")
    return file


def test_the_harness_scores_a_task_of_ones_own_as_a_count_by_hand_does(task):
    model, tokenizer = make_model().eval(), make_tokenizer()
    metrics, scores = run_harness(model, tokenizer, EvaluationConfig(lm_eval=[str(task)]))
    right = 0
    for row in ROWS:
        likely = []
        for choice in row["choices"]:
            ids, start = tokenizer(f"{row['asked']} {choice}")["input_ids"], len(tokenizer(row["asked"])["input_ids"])
            with torch.no_grad():
                chances = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
            likely.append(sum(chances[place - 1, ids[place]].item() for place in range(start, len(ids))))
        right += likely.index(max(likely)) == row["right"]
    score = scores["lm_eval/colours/acc"]
    assert (score.value, score.items) == (right / 8, 8)
    assert metrics["lm_eval/colours/acc"].better == "higher"
    assert run_harness(model, tokenizer, EvaluationConfig(lm_eval=[str(task)], lm_eval_limit=3))[1][
        "lm_eval/colours/acc"
    ].items == 3  # fmt: skip
    assert not model.training


def test_a_task_that_the_harness_does_not_know_is_told():
    with pytest.raises(ConfigError, match="the harness cannot run it"):
        run_harness(make_model(), make_tokenizer(), EvaluationConfig(lm_eval=["no_such_task"]))


def test_a_missing_package_and_a_missing_file_are_told_at_the_door(monkeypatch):
    with pytest.raises(ConfigError, match="there is no such file"):
        check_harness(EvaluationConfig(lm_eval=["no/such.yaml"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'lorascope\\[lm-eval\\]'"):
        check_harness(EvaluationConfig(lm_eval=["hellaswag"]))


def test_no_task_costs_nothing():
    assert run_harness(None, None, EvaluationConfig()) == ({}, {})
