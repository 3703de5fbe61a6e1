"""What a user should know of the data before it is learned: a line each."""

from __future__ import annotations

from lorascope.data.rows import Rows, shared_prompts
from lorascope.data.tokens import Encoded


def data_notes(rows: Rows, train: Encoded, evaluation: Encoded) -> list[str]:
    """Bad rows that are skipped, prompts on both sides, rows that are cut, answers that are not learned."""
    notes = []
    skipped = [*rows.skipped, *train.skipped, *evaluation.skipped]
    if skipped:
        notes.append(f"{len(skipped)} bad rows are skipped; the first: {skipped[0]}")
    if shared := shared_prompts(rows):
        first = shared[0].prompt[:60]
        notes.append(f"{len(shared)} of {len(rows.eval)} eval prompts are in the train half too; the first: {first!r}")
    for half, encoded in (("train", train), ("eval", evaluation)):
        if encoded.truncated:
            notes.append(f"{encoded.truncated} of {len(encoded)} {half} rows are cut at train.max_length")
        if encoded.last_answer_only:
            notes.append(
                f"in {encoded.last_answer_only} {half} conversations only the last answer is learned: "
                "the chat template renders the earlier ones in another way once more is said"
            )
    return notes
