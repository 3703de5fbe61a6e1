"""What check_llama_cpp.py has done by llama.cpp itself, in the interpreter that has it.

python scripts/with_llama_cpp.py convert SOURCE FOLDER OUT …     each model's folder to a GGUF file, float32
python scripts/with_llama_cpp.py answer MODEL ADAPTER PROMPT NEW OUT
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

ROOM = 256  # tokens of a context


def convert(source: str, folder: Path, out: Path) -> None:
    """Write a model's folder as GGUF with llama.cpp's own conversion, without the words of its vocabulary.

    Args:
        source: llama.cpp's source, with `conversion/` and `gguf-py/`.
        folder: as `save_pretrained` wrote it.
        out: the file to write.
    """
    sys.path[:0] = [source, f"{source}/gguf-py"]
    import gguf
    from conversion import (  # type: ignore[import-not-found]
        ModelBase,
        ModelType,
        get_model_architecture,
        get_model_class,
    )

    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    settings = stored | ModelBase.load_hparams(folder, False)  # which drops what transformers no longer knows
    kind = get_model_class(get_model_architecture(settings, ModelType.TEXT))
    model = kind(folder, gguf.LlamaFileType.ALL_F32, out, hparams=settings)
    inner = getattr(model, "impl", model)

    def numbers_alone() -> None:
        inner.gguf_writer.add_tokenizer_model("none")
        inner.gguf_writer.add_vocab_size(inner.hparams["vocab_size"])

    inner.set_vocab = numbers_alone
    model.write()


def answer(model: str, adapter: str, prompt: list[int], new: int, out: Path) -> None:
    """Save the logits of a prompt and the tokens that follow it greedily, of the base and with an adapter.

    Args:
        model: the base's GGUF file.
        adapter: the adapter's GGUF file.
        prompt: token ids.
        new: how many tokens are written.
        out: a .npz file: `base` and `adapted` (positions, vocabulary), `tokens`.
    """
    import llama_cpp as llama  # type: ignore[import-not-found]
    import numpy as np

    llama.llama_backend_init()
    loaded = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
    assert loaded, "llama.cpp does not load the base"
    learned = llama.llama_adapter_lora_init(loaded, adapter.encode())
    assert learned, "llama.cpp does not load the adapter"
    adapters, scales = (llama.llama_adapter_lora_p_ctypes * 1)(learned), (ctypes.c_float * 1)(1.0)
    found: dict[str, Any] = {}
    for name, count in (("base", 0), ("adapted", 1)):
        context = llama.llama_init_from_model(loaded, exact(llama))
        assert llama.llama_set_adapters_lora(context, adapters, count, scales) == 0
        found[name] = logits(llama, loaded, context, prompt, 0)
    tokens = [int(found["adapted"][-1].argmax())]
    while len(tokens) < new:
        place = len(prompt) + len(tokens) - 1
        tokens.append(int(logits(llama, loaded, context, tokens[-1:], place)[-1].argmax()))
    np.savez(out, tokens=np.array(tokens), **found)


def exact(llama: Any) -> Any:
    """Settings of a context that rounds nothing: keys and values in float32, one thread."""
    settings = llama.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = ROOM
    settings.n_threads = settings.n_threads_batch = 1
    settings.type_k = settings.type_v = llama.GGML_TYPE_F32
    settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return settings


def logits(llama: Any, model: Any, context: Any, tokens: list[int], start: int) -> Any:
    """The logits of tokens that stand at START and after it, (tokens, vocabulary)."""
    import numpy as np

    batch = llama.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for place, token in enumerate(tokens):
        batch.token[place], batch.pos[place] = token, start + place
        batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
    assert llama.llama_decode(context, batch) == 0, "llama.cpp does not run"
    size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, place), (size,)) for place in range(len(tokens))]
    found = np.stack(rows).copy()
    llama.llama_batch_free(batch)
    return found


if __name__ == "__main__":
    command, *words = sys.argv[1:]
    if command == "convert":
        for folder, out in zip(words[1::2], words[2::2], strict=True):
            try:
                convert(words[0], Path(folder), Path(out))
            except Exception as error:  # the others are converted all the same
                print(f"{folder}: {type(error).__name__}: {error}", file=sys.stderr)
    else:
        answer(words[0], words[1], json.loads(words[2]), int(words[3]), Path(words[4]))
