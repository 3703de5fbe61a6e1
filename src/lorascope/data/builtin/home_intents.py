"""Smart-home sentences and their intents, from Home Assistant's templates; the eval split has templates of its own."""

from __future__ import annotations

import functools
import json
import random
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING

from lorascope.data.rows import Row, Rows, exchange

if TYPE_CHECKING:
    from hassil.intents import Intents, Sentence, SlotList


SYSTEM = "Name the intent of the smart home command."
LONGEST_EXPANSION = 4000  # sentences of one template that are read; a few templates have millions
# for the lists that a home fills in itself (areas, names) and for open or long ones (numbers, free text)
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


@functools.cache  # it takes three seconds
def load(
    *, min_templates: int = 8, train_rows_per_intent: int = 48, eval_rows_per_intent: int = 8, eval_share: float = 0.25
) -> Rows:
    """Sentences and intents.

    Args:
        min_templates: intents with fewer sentence templates are left out.
        train_rows_per_intent: sentences of an intent in the train split, drawn evenly over its templates.
        eval_share: share of each intent's templates that only the eval split has.
    """
    from hassil.intents import Intents, TextSlotList

    raw = json.loads((files("home_assistant_intents") / "data" / "en.json").read_text(encoding="utf-8"))
    intents = Intents.from_dict(raw)
    slots = intents.slot_lists | {name: TextSlotList.from_strings(words) for name, words in WORDS.items()}
    splits: tuple[list[Row], list[Row]] = ([], [])
    for intent in sorted(intents.intents):
        templates = [sentence for data in intents.intents[intent].data for sentence in data.sentences]
        if len(templates) < min_templates:
            continue
        draw = random.Random(intent)
        draw.shuffle(templates)
        held_out = max(1, round(eval_share * len(templates)))
        used: set[str] = set()
        wanted = ((templates[held_out:], train_rows_per_intent), (templates[:held_out], eval_rows_per_intent))
        for rows, (chosen, count) in zip(splits, wanted, strict=True):
            for template, sentence in islice(_sentences(chosen, intents, slots, draw, used), count):
                rows.append(exchange(sentence, intent.removeprefix("Hass"), SYSTEM, template))
    return Rows(
        tuple(splits[0]),
        tuple(splits[1]),
        f"home-assistant-intents {version('home-assistant-intents')}",
        labels=tuple(sorted({row.completion for row in splits[0]})),
        license="Apache-2.0",
        split="by sentence template, within each intent: no template is in both halves",
    )


def _sentences(
    templates: list[Sentence], intents: Intents, slots: dict[str, SlotList], draw: random.Random, used: set[str]
) -> Iterator[tuple[str, str]]:
    """Templates in turn, each with a sentence that was not used before."""
    from hassil.sample import sample_sentence

    pools: deque[tuple[str, Iterator[str]]] = deque()
    for template in templates:
        every = sample_sentence(template, slots, intents.expansion_rules, language="en")
        sentences = sorted({sentence.strip() for sentence in islice(every, LONGEST_EXPANSION)})
        draw.shuffle(sentences)
        pools.append((template.text, reversed(sentences)))
    while pools:
        text, found = pools.popleft()
        sentence = next((one for one in found if one not in used), None)
        if sentence is not None:
            used.add(sentence)
            pools.append((text, found))
            yield text, sentence
