"""One item and what was made of it: the question, its right answers, and what a model chose, wrote or found likely."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """An item of a set, answered. What no metric asks for stays empty."""

    prompt: str
    gold: str
    accepted: tuple[str, ...] = ()  # further right answers
    group: str = ""
    choice: str = ""  # the most likely label
    scores: tuple[float, ...] = ()  # log-probability of each label, in nats
    text: str = ""  # what the model wrote
    nats: float = 0.0  # loss of the right answer, summed over its tokens
    tokens: int = 0

    @property
    def right(self) -> tuple[str, ...]:
        """All right answers."""
        return (self.gold, *self.accepted)
