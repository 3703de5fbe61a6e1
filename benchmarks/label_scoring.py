"""Label scoring with a shared prompt against the same one by one: seconds an item, and whether the scores agree.

    python benchmarks/label_scoring.py            400 short items of home_intents, 19 labels, the embedded model

One by one is a forward pass for each item and label, as a loop over `model(prompt + label)` would do it; it is timed on
every tenth item. In between lies a pass an item, all its labels as one padded batch.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any


def main() -> int:
    """Print seconds an item, ratios and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--every", type=int, default=10, help="one by one is timed on every so many-th item")
    options = parser.parse_args()

    from lorascope.base.loading import load_base
    from lorascope.compose import compose
    from lorascope.config.machine import resolve
    from lorascope.console import hush
    from lorascope.data.prompts import choices, questions
    from lorascope.data.rows import some
    from lorascope.data.sources import load_rows
    from lorascope.evaluation.answers import _plainly, score_choices

    hush()
    config = resolve(compose(["dataset=home_intents"]))
    base, rows = load_base(config), load_rows(config.dataset)
    asked = choices(
        questions(some([*rows.eval, *rows.train], options.items), base.tokenizer), rows.labels, base.tokenizer
    )
    pad_id, batch = int(base.tokenizer.pad_token_id or 0), config.evaluation.batch_tokens
    few = asked[:: options.every]
    score_choices(base.model, asked[:4], pad_id=pad_id, batch_tokens=batch)  # kernels and memory

    def timed(function: Any, items: Any) -> tuple[float, Any]:
        began = time.perf_counter()
        found = function(items)
        return (time.perf_counter() - began) / len(items), found

    shared, scores = timed(lambda items: score_choices(base.model, items, pad_id=pad_id, batch_tokens=batch), asked)
    single, alone = timed(lambda items: [_plainly(base.model, [item], pad_id, 1)[0] for item in items], few)
    padded, _ = timed(lambda items: [_plainly(base.model, [item], pad_id, 10**6)[0] for item in items], few)
    again, _ = timed(lambda items: score_choices(base.model, items, pad_id=pad_id, batch_tokens=batch), asked)
    apart = max(
        abs(one - other)
        for left, right in zip(scores[:: options.every], alone, strict=True)
        for one, other in zip(left, right, strict=True)
    )
    same = sum(
        left.index(max(left)) == right.index(max(right))
        for left, right in zip(scores[:: options.every], alone, strict=True)
    )
    best = min(shared, again)
    print(f"{len(asked)} items, {len(rows.labels)} labels, {config.model.name} in {config.model.dtype}")
    print(f"shared prompt, batched      {1000 * shared:8.1f} and {1000 * again:.1f} ms an item")
    print(f"one by one                  {1000 * single:8.1f} ms an item   {single / best:.1f} times")
    print(f"an item's labels at once    {1000 * padded:8.1f} ms an item   {padded / best:.1f} times")
    print(f"largest difference {apart:.3f} nats; the same choice on {same} of {len(few)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
