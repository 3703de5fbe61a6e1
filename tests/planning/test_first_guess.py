"""The learning rate that a run begins with, against published tables and what was measured here."""

import dataclasses
import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from lorascope.cli.main import main
from lorascope.compose import compose
from lorascope.config.hints import choices_of
from lorascope.config.schema import AlphaPolicy, PilotConfig, Ranks, RunConfig, TargetConfig
from lorascope.errors import ConfigError
from lorascope.planning.first_guess import OTHERS, RULES, effective_alpha, guess_rate, rate_of
from lorascope.planning.run_plan import RunPlan, plan_run, resolve_config
from lorascope.records.identity import identity, run_id
from lorascope.study.design import design
from lorascope.study.schedule import StudyPlanner, Trial, grid

ROOT = Path(__file__).parents[2]
# tinker-cookbook, recipes/chat_sl/results/sft_sweep.md at 9dfcc3a2 (August 2026), read row by row:
# model, transformers' type of it, hidden size, and the best of the rates 4e-5, 1e-4, 3e-4 (4e-4), 1e-3 and 3e-3
TABLE = """
Nemotron-3-Ultra-550B-A55B     nemotron_h      8192  3e-4
Kimi-K2.6                      kimi_k2         7168  3e-4
DeepSeek-V3.1                  deepseek_v3     7168  3e-4
Qwen3.6-35B-A3B                qwen3_5_moe     2048  3e-4
Qwen3.6-27B                    qwen3_5         5120  3e-4
Qwen3.5-35B-A3B-Base           qwen3_5_moe     2048  3e-4
Qwen3.5-9B-Base                qwen3_5         4096  3e-4
Qwen3.5-9B                     qwen3_5         4096  3e-4
Qwen3-235B-A22B-Instruct-2507  qwen3_moe       4096  3e-4
Qwen3-30B-A3B                  qwen3_moe       2048  1e-3
Qwen3-30B-A3B-Base             qwen3_moe       2048  1e-3
Qwen3-30B-A3B-Instruct-2507    qwen3_moe       2048  1e-3
Qwen3-32B                      qwen3           5120  3e-4
Qwen3-4B-Instruct-2507         qwen3           2560  1e-3
Qwen3-8B                       qwen3           4096  1e-3
Qwen3-8B-Base                  qwen3           4096  1e-3
Qwen3-VL-235B-A22B-Instruct    qwen3_vl_moe    4096  3e-4
Qwen3-VL-30B-A3B-Instruct      qwen3_vl_moe    2048  1e-3
Qwen3.5-27B                    qwen3_5         5120  3e-4
Qwen3.5-35B-A3B                qwen3_5_moe     2048  3e-4
Qwen3.5-397B-A17B              qwen3_5_moe     4096  3e-4
Qwen3.5-4B                     qwen3_5         2560  3e-4
DeepSeek-V3.1-Base             deepseek_v3     7168  4e-4
Llama-3.1-70B                  llama           8192  3e-4
Llama-3.1-8B                   llama           4096  3e-4
Llama-3.1-8B-Instruct          llama           4096  3e-4
Llama-3.2-1B                   llama           2048  1e-3
Llama-3.2-3B                   llama           3072  1e-3
Llama-3.3-70B-Instruct         llama           8192  3e-4
Kimi-K2-Thinking               kimi_k2         7168  3e-4
Kimi-K2.5                      kimi_k2         7168  3e-4
Nemotron-3-Nano-30B-A3B        nemotron_h      2688  4e-4
Nemotron-3-Super-120B-A12B     nemotron_h      4096  1e-3
gpt-oss-120b                   gpt_oss         2880  3e-4
gpt-oss-20b                    gpt_oss         2880  1e-4
"""
ROWS = [(name, kind, int(hidden), float(rate)) for name, kind, hidden, rate in map(str.split, TABLE.split("\n")[1:-1])]


def target(alpha: float = 32.0, policy: AlphaPolicy = AlphaPolicy.constant, **ranks: int) -> TargetConfig:
    return TargetConfig(ranks=Ranks(**(ranks or {"q": 8, "v": 8})), alpha=alpha, alpha_policy=policy)


def off(one: float, other: float) -> float:
    """The factor between two rates."""
    return max(one / other, other / one)


def test_the_guess_is_within_a_factor_of_two_of_each_published_best_rate():
    found = {name: off(guess_rate(kind, hidden, target()).rate, best) for name, kind, hidden, best in ROWS}
    assert len(found) == 35
    worst = max(found, key=lambda name: found[name])
    print(f"worst: {worst}, off by {found[worst]:.2f}; median {statistics.median(found.values()):.2f}")
    assert found[worst] <= 2


def test_it_is_nearer_to_the_table_than_the_rate_that_all_presets_had():
    before = [math.log(off(2e-4, best)) for *_, best in ROWS]
    now = [math.log(off(guess_rate(kind, hidden, target()).rate, best)) for _, kind, hidden, best in ROWS]
    assert statistics.mean(now) < 0.6 * statistics.mean(before)
    assert max(before) > math.log(4.9)


def test_a_type_that_no_row_has_gets_a_rate_among_those_of_the_table():
    rate, source = guess_rate("mistral", 4096, target())
    assert min(best for *_, best in ROWS) < rate < max(best for *_, best in ROWS)
    assert source.startswith("no mistral in tinker-cookbook's sweep")


def pilots() -> dict[str, list[float]]:
    """The rates that the pilot of the founding claims chose, as docs/results.md has them."""
    text = " ".join((ROOT / "docs" / "results.md").read_text().split())
    said = re.search(r"The rates that the pilot chose: (.*?)\. One rate", text)
    assert said
    groups = re.findall(r"((?:`\w+`(?: and )?)+) ([\d., ]+\d)", said[1])
    return {arm: [float(one) for one in rates.split(",")] for arms, rates in groups for arm in re.findall(r"\w+", arms)
            if arm != "and"}  # fmt: skip


def test_for_the_embedded_model_the_formula_is_a_factor_of_two_below_what_was_measured():
    measured = pilots()
    assert {arm: len(rates) for arm, rates in measured.items()} == dict.fromkeys(("q_v", "qkvo", "ffn", "qv_ffn"), 3)
    middle = statistics.geometric_mean([rate for rates in measured.values() for rate in rates])
    model = compose().model
    guess = guess_rate("llama", model.architecture["hidden_size"], compose().target).rate
    assert guess == pytest.approx(2.7e-3)
    assert middle / guess == pytest.approx(1.9, abs=0.15)
    assert max(off(guess, rate) for rates in measured.values() for rate in rates) < 3.01
    by_the_batchs_root = guess * math.sqrt(8 / 128)
    assert middle / by_the_batchs_root > 6  # why the batch does not count
    assert model.learning_rate == 1e-3  # the tested rate stays


@pytest.mark.parametrize("policy", AlphaPolicy)
@pytest.mark.parametrize("rank", [4, 8, 64])
def test_two_strategies_with_the_same_scale_at_the_same_rank_have_the_same_rate(policy, rank):
    scale = {"constant": 16 / rank, "proportional": 16 / 8, "rslora": 16 / math.sqrt(rank)}[policy]
    same = target(alpha=scale * rank, q=rank)
    assert effective_alpha(target(16, policy, q=rank)) == pytest.approx(same.alpha, rel=1e-3)
    assert guess_rate("llama", 4096, target(16, policy, q=rank))[0] == guess_rate("llama", 4096, same)[0]


def test_strategies_of_one_constant_alpha_begin_at_one_rate():
    words = ["model=mistral7b", "device=cpu"]
    rates = {resolve_config(compose([*words, f"target={name}"])).train.rate for name in choices_of("target")}
    assert len(rates) == 1


def test_a_larger_alpha_wants_a_lower_rate():
    rates = [guess_rate("llama", 4096, target(alpha)).rate for alpha in (8, 16, 32, 64)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] / rates[2] == pytest.approx(2, rel=0.02)


def on_cpu(*words: str) -> RunPlan:
    return plan_run(resolve_config(compose(["device=cpu", *words])))


def test_every_preset_without_a_rate_of_its_own_gets_one_that_is_in_its_id_and_plan():
    for name in set(choices_of("model")) - {"hf"}:
        config = compose([f"model={name}", "device=cpu"])
        resolved = resolve_config(config)
        assert 1e-4 < resolved.train.rate < 3e-3, name
        assert (config.train.learning_rate is None) is (name != "smollm2"), name
        assert identity(resolved)["train"]["learning_rate"] == resolved.train.rate


def test_a_guessed_rate_and_the_same_number_given_are_the_same_run():
    words = ["model=llama3_1b", "device=cpu"]
    guessed = resolve_config(compose(words))
    given = resolve_config(compose([*words, f"train.learning_rate={guessed.train.rate}"]))
    other = resolve_config(compose([*words, "train.learning_rate=2e-4"]))
    assert run_id(given) == run_id(guessed) != run_id(other)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["model=llama3_1b"],
            r"learning rate          0.001      llama models of tinker-cookbook's sweep .* hidden 2048",
        ),
        (["model=llama3_1b", "train.learning_rate=3e-4"], r"learning rate          0.0003     as asked; .* is 0.001"),
        ([], r"learning rate          0.001      the model's file names it"),
        (["train.learning_rate=0.5"], r"learning rate          0.5        as asked; the model's file has 0.001"),
        (["train.learning_rate=null"], r"learning rate          0.0027     llama models of .*: hidden 576, alpha 16"),
        (["target=auto_kappa"], r"learning rate          0.001      the model's file"),
    ],
)
def test_the_plan_names_the_rate_and_its_source_in_one_line(words, line, capsys):
    main(["plan", "device=cpu", *words])
    found = [shown for shown in capsys.readouterr().out.splitlines() if shown.startswith("learning rate")]
    assert len(found) == 1
    assert re.match(line, found[0])


def test_a_pilots_rates_lie_around_the_first_guess():
    words = ["model=llama3_8b", "device=cpu", "study.arms={q_v: 'target=q_v', rs: 'target=ffn target.alpha=64'}"]

    def composed(more: Sequence[str]) -> RunConfig:
        return compose([*words, *more])

    planner = StudyPlanner(composed)
    middles = []
    for cell in design(composed([]).study, composed).cells:
        middle = guess_rate("llama", 4096, cell.config.target).rate
        assert planner.middle(cell) == middle
        trials = [planner.trial(cell, PilotConfig(), Trial(0, step)) for step in grid(PilotConfig(points=5))]
        assert [run.entry.rate for run in trials] == pytest.approx([middle * 2**step for step in range(-2, 3)])
        middles.append(middle)
    assert middles[0] == pytest.approx(2 * middles[1], rel=0.02)


def test_the_plan_in_json_has_the_rate_and_its_source(capsys):
    main(["plan", "device=cpu", "model=qwen3_8b", "--json"])
    (plan,) = json.loads(capsys.readouterr().out)
    assert plan["learning_rate"]["rate"] == pytest.approx(7.2e-4)
    assert "sweep of 35 models" in plan["learning_rate"]["source"]


def test_a_folder_without_a_rate_of_its_own_is_looked_at(tiny_words):
    plan = plan_run(resolve_config(compose(tiny_words)))
    assert plan.config.train.rate == guess_rate(plan.modules.model_type, plan.modules.hidden, plan.config.target).rate
    assert rate_of(plan.config, plan.modules).rate == plan.config.train.rate


def test_a_rate_must_still_be_a_number():
    with pytest.raises(ConfigError, match=r"train.learning_rate.* must be a number \(got 'auto'\)"):
        compose(["train.learning_rate=auto"])


def shown(words: list[str], capsys: pytest.CaptureFixture[str], what: str) -> list[str]:
    main(["plan", "device=cpu", *words])
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(what)]


def test_rows_that_are_cut_are_told_with_the_length_that_fits(capsys):
    (line,) = shown(["train.max_length=24"], capsys, "rows ")
    assert "rows are cut at train.max_length=24; train.max_length=48 cuts none" in line
    (line,) = shown(["train.max_length=48"], capsys, "rows ") or [""]
    assert line == ""


def test_a_length_that_no_row_needs_is_told_and_changed_by_nobody(capsys):
    (line,) = shown([], capsys, "rows ")
    assert line.endswith("the longest of 48 tokens: train.max_length=48 would do, 512 cuts none either")
    assert on_cpu().config.train.max_length == 512
    assert shown(["train.packing=true"], capsys, "rows ") == []  # there it says how many tokens share a row


def test_where_the_memory_does_not_suffice_the_plan_names_what_fits(monkeypatch, capsys):
    import lorascope.planning.run_plan as planning

    words = ["train.batch_size=64", "dataset=airports"]
    full = on_cpu(*words).memory
    less = on_cpu("train.batch_size=8", "dataset=airports").memory
    assert full
    assert less
    assert less.total < full.total
    assert "that is more than" not in "".join(shown(words, capsys, ""))
    there = round((full.total + less.total) / 2 / 0.92)
    monkeypatch.setattr(planning, "machine_memory", lambda: (there, there))
    plan = on_cpu(*words)
    way = plan.fitting_step
    assert way
    assert way.fits
    assert way.step.batch_size * way.step.accumulation == 64
    assert way.predicted_bytes <= 0.92 * there
    lines = shown(words, capsys, "")
    place = next(number for number, line in enumerate(lines) if line.startswith("that is more than fits"))
    assert lines[place + 1].strip().startswith(way.overrides)
    assert plan.config == dataclasses.replace(plan.config, train=on_cpu(*words).config.train)  # nothing is changed


def test_where_nothing_fits_the_plan_says_so(monkeypatch, capsys):
    import lorascope.planning.run_plan as planning

    monkeypatch.setattr(planning, "machine_memory", lambda: (2**20, 2**20))
    lines = shown([], capsys, "")
    assert any("does not fit either; shorten train.max_length" in line for line in lines)


def test_the_page_on_learning_rates_has_the_formulas_numbers_and_the_worst_of_each_family():
    page = (ROOT / "docs" / "learning_rates.md").read_text()
    shown = re.findall(r"^\| (.*?) \| ([\d.]+e-4) \| ([\d.]+) \| (.*?) \|$", page, re.MULTILINE)
    rules = {name: (rule, told) for who, *rule, told in shown for name in re.findall(r"`(\w+)\*`", who)}
    assert {name: tuple(map(float, rule)) for name, (rule, _) in rules.items()} == RULES
    assert tuple(map(float, shown[-1][1:3])) == OTHERS
    for name in RULES:
        alike = [other for other in RULES if rules[other] == rules[name]]
        errors = [
            off(guess_rate(kind, hidden, target()).rate, best)
            for _, kind, hidden, best in ROWS
            if next(rule for rule in RULES if kind.startswith(rule)) in alike
        ]
        assert f"{max(errors):.1f}" == rules[name][1].split()[0]
