"""lorascope: where should LoRA go? Fine-tuning runs that compare target strategies."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "create_attention_lora_config", "list_trainable_modules", "load_runs", "plan", "train"]


def __getattr__(name: str) -> Any:
    """Load the library functions when they are asked for: importing lorascope costs nothing."""
    if name in __all__:
        from lorascope import api

        return getattr(api, name)
    raise AttributeError(f"module 'lorascope' has no attribute '{name}'")
