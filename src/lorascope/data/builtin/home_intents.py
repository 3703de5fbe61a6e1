"""Smart-home sentences and their intents, from Home Assistant's templates.

The split is by template, stratified by intent: a sentence of the eval half has a form that training never showed.
"""

from __future__ import annotations

import functools
import json
import random
from importlib.metadata import version
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING

from lorascope.data.rows import Row, Rows, exchange

if TYPE_CHECKING:
    from hassil.intents import Intents, Sentence, SlotList


SYSTEM = "Name the intent of the smart home command."
LONGEST_EXPANSION = 4000  # sentences of one template that are looked at; a few templates have millions

# Words for the lists that a home fills in itself (areas, names) and for open or long ones (numbers, free text).
WORDS = {
    "area": ["kitchen", "bedroom", "living room", "garage", "hallway", "office"],
    "name": ["ceiling lamp", "front door", "heater", "desk fan", "robot", "radio"],
    "floor": ["first", "ground", "upper"],
    "zone": ["work", "school"],
    "message": ["dinner is ready", "we are leaving"],
    "search_query": ["jazz", "the morning news", "piano music"],
    "timer_name": ["pizza", "laundry", "tea"],
    "timer_command": ["turn off the lights", "open the blinds"],
    "shopping_list_item": ["milk", "apples", "soap"],
    "todo_list_item": ["call the plumber", "water the plants"],
    "temperature": ["19", "21.5", "24"],
    "position": ["20", "50", "75"],
    "fan_speed": ["30", "60", "90"],
    "brightness": ["15", "40", "80"],
    "color_temperature": ["2700", "4000", "6500"],
    "volume": ["10", "35", "70"],
    "volume_step_up": ["5", "20"],
    "volume_step_down": ["5", "20"],
    "timer_hours": ["1", "2", "6"],
    "timer_minutes": ["5", "15", "45"],
    "timer_seconds": ["10", "30", "90"],
}


@functools.cache  # three seconds, which the later runs of a sweep need not spend again
def load(
    *,
    min_templates: int = 8,
    train_rows_per_intent: int = 48,
    eval_rows_per_intent: int = 8,
    eval_share: float = 0.25,
) -> Rows:
    """Sentences and intents.

    Args:
        min_templates: intents with fewer sentence templates are left out.
        train_rows_per_intent: sentences of an intent in the train half, drawn evenly over its templates.
        eval_rows_per_intent: the same for the eval half.
        eval_share: share of each intent's templates that only the eval half has.
    """
    from hassil.intents import Intents, TextSlotList

    raw = json.loads((files("home_assistant_intents") / "data" / "en.json").read_text(encoding="utf-8"))
    intents = Intents.from_dict(raw)
    slots = intents.slot_lists | {name: TextSlotList.from_strings(words) for name, words in WORDS.items()}
    train: list[Row] = []
    evaluation: list[Row] = []
    for intent in sorted(intents.intents):
        templates = [sentence for data in intents.intents[intent].data for sentence in data.sentences]
        if len(templates) < min_templates:
            continue
        draw = random.Random(intent)
        draw.shuffle(templates)
        held_out = max(1, round(eval_share * len(templates)))
        label = intent.removeprefix("Hass")
        seen: set[str] = set()
        for half, chosen, wanted in (
            (train, templates[held_out:], train_rows_per_intent),
            (evaluation, templates[:held_out], eval_rows_per_intent),
        ):
            for template, sentence in _sentences(chosen, wanted, intents, slots, draw, seen):
                half.append(exchange(sentence, label, SYSTEM, template))
    return Rows(
        tuple(train),
        tuple(evaluation),
        f"home-assistant-intents {version('home-assistant-intents')}",
        labels=tuple(sorted({row.completion for row in train})),
        license="Apache-2.0",
        split="by sentence template, within each intent: no template is in both halves",
    )


def _sentences(
    templates: list[Sentence],
    wanted: int,
    intents: Intents,
    slots: dict[str, SlotList],
    draw: random.Random,
    seen: set[str],
) -> list[tuple[str, str]]:
    """Up to `wanted` sentences that were not seen before, taken in turn from each template."""
    from hassil.sample import sample_sentence

    pools = []
    for template in templates:
        every = sample_sentence(template, slots, intents.expansion_rules, language="en")
        found = sorted({sentence.strip() for sentence in islice(every, LONGEST_EXPANSION)})
        draw.shuffle(found)
        pools.append((template.text, found))
    taken: list[tuple[str, str]] = []
    while len(taken) < wanted and any(found for _, found in pools):
        for text, found in pools:
            while found and found[-1] in seen:
                found.pop()
            if found and len(taken) < wanted:
                sentence = found.pop()
                seen.add(sentence)
                taken.append((text, sentence))
    return taken
