"""A learning rate from published tables, where neither the user nor the model's file names one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from lorascope.base.architecture import load_architecture
from lorascope.config.schema import RunConfig, TargetConfig
from lorascope.targets.module_map import ModuleMap
from lorascope.targets.plan import PROPORTIONAL_RANK, alpha_and_scale
from lorascope.targets.weights import number

SWEEP = "tinker-cookbook's sweep of 35 models"


class WidthRule(NamedTuple):
    """A rate that falls with the width of the model: at_2000 x (2000 / hidden) ** exponent, at alpha 32."""

    at_2000: float
    exponent: float


# From that sweep (recipes/chat_sl/results/sft_sweep.md: tulu3, batches of 128, 780 steps, constant alpha): near the
# best rates of r4 to r16, and within a factor of two of each model's best at any rank. Llama's and Qwen's exponents
# are those of its get_lr, the others' that of a line through all 35. By the start of transformers' model_type.
RULES = {
    "llama": WidthRule(7.2e-4, 0.781),
    "qwen3_5": WidthRule(2.7e-4, 0.0775),
    "qwen": WidthRule(5.4e-4, 0.0775),
    "deepseek": WidthRule(3.1e-4, 0.2),
    "kimi": WidthRule(3.1e-4, 0.2),
    "nemotron": WidthRule(6.0e-4, 0.2),
    "gpt_oss": WidthRule(1.9e-4, 0.2),
}
OTHERS = WidthRule(4.3e-4, 0.2)
ALPHA = 32.0  # of the sweep
WIDTH = 2000  # at which the rules have their first number


class Guess(NamedTuple):
    """A learning rate, and where it is from."""

    rate: float
    source: str


def guess_rate(model_type: str, hidden: int, target: TargetConfig) -> Guess:
    """The learning rate to begin with, of AdamW, to two digits.

    Strategies of one alpha begin at one rate, so that their runs can be compared: at a constant alpha the best rate
    moves by less than a factor of two from r4 to r512 (LoRA Without Regret, 2025; by 1.7 from r4 to r128 in the sweep).
    Twice the alpha acts as twice the rate of B and the same of A (there too), so one rate for both goes by the root.
    The batch does not count: tinker's guide takes its root, and is then seven times too low for what was measured here
    in batches of 8 (docs/learning_rates.md).

    Args:
        model_type: as transformers calls the language model.
        hidden: its width.
        target: of which alpha, its policy and the ranks count.
    """
    family = next((name for name in RULES if model_type.startswith(name)), None)
    rule = RULES[family] if family else OTHERS
    alpha = effective_alpha(target)
    rate = rule.at_2000 * (WIDTH / hidden) ** rule.exponent * math.sqrt(ALPHA / alpha)
    who = f"{family} models of {SWEEP}" if family else f"no {model_type} in {SWEEP}, so all of them"
    return Guess(float(f"{rate:.2g}"), f"{who}: hidden {hidden}, alpha {alpha:g}")


def effective_alpha(target: TargetConfig) -> float:
    """The constant alpha that gives the strategy's scale at its ranks, of which the geometric mean is taken."""
    ranks = [*target.ranks.given().values(), *target.modules.values()]
    ranks = ranks or [target.peft_default or PROPORTIONAL_RANK]
    logs = [math.log(rank * alpha_and_scale(target, rank)[1]) for rank in ranks]
    return float(f"{math.exp(sum(logs) / len(logs)):.4g}")


def with_rate(config: RunConfig) -> RunConfig:
    """The config with a learning rate: the first guess, where neither the user nor the model's file names one.

    Raises:
        ModelError: when the model's architecture cannot be had.
    """
    if config.train.learning_rate is not None:
        return config
    architecture = load_architecture(config.model)[0].get_text_config()
    guess = guess_rate(architecture.model_type, number(architecture, "hidden_size") or WIDTH, config.target)
    return replace(config, train=replace(config.train, learning_rate=guess.rate))


def rate_of(config: RunConfig, modules: ModuleMap) -> Guess:
    """The learning rate of a resolved config, and where it is from."""
    rate, tested = config.train.rate, config.model.learning_rate
    if tested == rate:
        return Guess(rate, "the model's file names it")
    guess = guess_rate(modules.model_type, modules.hidden or WIDTH, config.target)
    if guess.rate == rate:
        return guess
    known = f"the model's file has {tested:g}" if tested is not None else f"the first guess is {guess.rate:g}"
    return Guess(rate, f"as asked; {known}")
