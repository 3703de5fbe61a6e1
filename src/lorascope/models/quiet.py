"""Keeps the libraries' progress bars and notices off the user's screen; our own lines say what is going on."""

from __future__ import annotations

import logging
import os
import warnings


def hush() -> None:
    """Quieten transformers, datasets, bitsandbytes and the hub client, unless LORASCOPE_DEBUG is set."""
    if os.environ.get("LORASCOPE_DEBUG"):
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # "Failed to load CPU gemm_4bit_forward": bitsandbytes then takes its own kernel, which is what is meant
    for name in ("bitsandbytes", "transformers", "huggingface_hub", "peft", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate|torch)\b")
    import datasets
    import huggingface_hub
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.enable_progress_bars()  # a download of gigabytes is worth a bar
    datasets.disable_progress_bars()
