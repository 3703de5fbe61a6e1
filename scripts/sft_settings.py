"""Write docs/sft_settings.md: every field of TRL's SFTConfig, and what `train.sft` does with it."""

from pathlib import Path

from lorascope.config.sft_settings import ELSEWHERE, HUB, WITHOUT_EFFECT, sft_fields

PAGE = Path(__file__).parents[1] / "docs" / "sft_settings.md"
HEAD = """# What train.sft does

`train.sft.NAME=VALUE` hands a setting to TRL's `SFTConfig`. Each of its fields is obeyed, or refused with what counts
in its place; none is accepted and then without effect. `python scripts/sft_settings.py` writes this table anew.

| SFTConfig | train.sft | in its place |
|---|---|---|
"""


def row(name: str) -> tuple[str, str]:
    """Whether a field is obeyed, and what counts in its place."""
    if name in ELSEWHERE:
        return "refused", f"Set `{ELSEWHERE[name]}`."
    if name in WITHOUT_EFFECT:
        return "refused", WITHOUT_EFFECT[name]
    if name.startswith(HUB):
        return "refused", "A run stays on this machine."
    return "obeyed", ""


def page() -> str:
    """The page as it should be."""
    lines = (f"| `{name}` | {' | '.join(row(name))} |" for name in sorted(sft_fields()))
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
