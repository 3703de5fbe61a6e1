"""Read from the Hugging Face hub or a local folder, and explain failures."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorascope.config.schema import ModelConfig
from lorascope.config.validation import is_local
from lorascope.errors import ModelError, out_of_memory

INDEX = "model.safetensors.index.json"
# files of a model folder that hold one JSON object each
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "adapter_config.json", INDEX,
)  # fmt: skip
PLAN_HINT = "The plan works without: dry_run=true."


def from_hub(load: Callable[..., Any], model: ModelConfig, **options: Any) -> Any:
    """`load(path, **options)`, for a hub id at its revision or for a local folder.

    Raises:
        ModelError: when it is gated, missing, out of reach, or not a model folder.
    """
    assert model.path
    options["trust_remote_code"] = model.trust_remote_code  # without it, transformers stops and asks on the terminal
    folder, place = Path(os.path.expanduser(model.path)), f"model.path={model.path}"
    local = is_local(model.path)
    if local:
        _check_folder(folder, place)
        options["local_files_only"] = True
    else:
        options |= {"revision": model.revision, "local_files_only": not reachable(model)}
    try:
        return load(str(folder) if local else model.path, **options)
    except Exception as error:
        if out_of_memory(error):
            raise
        if not local:
            raise explain(error, model) from error
        part = "its tokenizer " if "Tokenizer" in getattr(load, "__qualname__", "") else ""
        raise _unknown_code(error, place) or _unreadable(error, folder, place, part) from error


def _check_folder(folder: Path, place: str) -> None:
    if os.path.isfile(folder / "config.json"):  # which takes names of every length and kind
        return
    remedy = "Name a folder that save_pretrained wrote, or a hub id."
    if os.path.isfile(folder / "adapter_config.json"):
        raise ModelError(place, "holds an adapter, no model.", "Name the base that it was trained on.")
    raise ModelError(place, "has no config.json." if os.path.isdir(folder) else "is not a folder.", remedy)


def _unreadable(error: Exception, folder: Path, place: str, part: str) -> ModelError:
    """Which file of the folder stopped the loading, where that can be seen; the library does not always say."""
    what = first_line(error)
    if isinstance(error, ImportError):
        return ModelError(place, f"cannot be loaded: {what}", "Install it, or do without: model.attention=sdpa")
    if type(error).__module__ == "builtins" and not isinstance(error, OSError | ValueError):
        what = f"{type(error).__name__}: {what}"  # a KeyError's text is the key alone
    if "backend tokenizer" in what:
        what = "there is no tokenizer.json"
    objects = [path for path in (folder / name for name in OBJECTS) if os.path.isfile(path)]
    for path in (*objects, *sorted(folder.glob("*.safetensors"))):
        if broken := _broken(path):
            what = f"{path.name} {broken}"
    return ModelError(place, f"{part}cannot be loaded: {what.rstrip('.')}.", "Mend the folder, or copy it anew.")


def _broken(path: Path) -> str:
    """What is wrong with a file of a model's folder; empty where nothing is seen."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        try:
            with safe_open(path, "pt"):
                return ""
        except Exception as error:
            return f"is cut or damaged ({first_line(error)})"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"is no JSON that can be read ({first_line(error)})"
    if not isinstance(held, dict):
        return "holds no object with names"
    files = held.get("weight_map")
    names = isinstance(files, dict) and all(isinstance(name, str) for name in files.values())
    if path.name == INDEX and not (names and isinstance(held.get("metadata"), dict)):
        return "does not tell which weights are in which file"
    return ""


def reachable(model: ModelConfig) -> bool:
    """Whether the hub answers for this model: one question, instead of five retries for every file.

    Raises:
        ModelError: when it answers that the model is gated or does not exist.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    assert model.path
    try:
        HfApi().model_info(model.path, revision=model.revision, timeout=10)
    except HfHubHTTPError as error:
        raise explain(error, model) from error
    except OSError:  # offline by its own settings, too
        return False
    except ValueError as error:
        raise explain(error, model) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "httpx2", "httpcore2", "requests"):
            return False
        raise
    return True


def explain(error: Exception, model: ModelConfig) -> ModelError:
    """The hub's refusal in the user's words."""
    from huggingface_hub import errors

    chain: list[BaseException] = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) and link not in chain:
        chain.append(link)
    place = f"model={model.name}" if model.name != "hf" else f"model.path={model.path}"
    refusals = {
        errors.GatedRepoError: (
            place,
            f"the hub says that {model.path} is gated, and this machine's token has no access.",
            f"Accept its licence on the model's page, then set HF_TOKEN. {PLAN_HINT}",
        ),
        errors.RevisionNotFoundError: (
            "model.revision",
            f"{model.path} has no revision '{model.revision}'.",
            "Take main.",
        ),
        errors.RepositoryNotFoundError: (
            place,
            f"the hub knows no model {model.path}, or it is private.",
            "Check the id; for a private one set HF_TOKEN.",
        ),
        errors.HFValidationError: (place, "is neither a folder nor a hub id.", "Write ORG/NAME, or ./FOLDER."),
    }
    for kind, refusal in refusals.items():
        if any(isinstance(link, kind) for link in chain):
            return ModelError(*refusal)
    if unknown := _unknown_code(error, place):
        return unknown
    text = " ".join(str(link) for link in chain)
    if "connect" in text or "offline" in text.lower() or "cached files" in text:
        what = f"the hub cannot be reached, and {model.path} is not in the local cache."
        return ModelError(place, what, f"Connect once, or name a local folder: model=hf model.path=FOLDER. {PLAN_HINT}")
    return ModelError(place, first_line(error), PLAN_HINT)


def _unknown_code(error: Exception, place: str) -> ModelError | None:
    """A model whose code is not in the installed transformers: it brings its own, or is newer."""
    if "trust_remote_code" in str(error):
        return ModelError(
            place,
            "this model brings its own code, which lorascope does not run unasked.",
            "Take a model whose type transformers knows, or read the code and ask for it: model.trust_remote_code=true "
            "model.revision=COMMIT",
        )
    if found := re.search(r"model type [`'](\S*?)[`'] but Transformers does not recognize", str(error)):
        import transformers

        what = f"its model type '{found[1]}' is unknown to transformers {transformers.__version__}."
        remedy = "It may be newer: install a later transformers, or check model_type in its config.json."
        return ModelError(place, what, remedy)
    return None


def first_line(error: Exception) -> str:
    """What an error says, without what it explains."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


# of a model's folder, what a run reads
READ = ("*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.safetensors", "*.bin", "*.gguf")


def folder_hash(model: ModelConfig) -> str | None:
    """A hash over the files of a local model, so that an edited template or weight makes another run; 16 hex digits."""
    folder = Path(os.path.expanduser(model.path or ""))
    if model.package or not is_local(model.path or "") or not folder.is_dir():
        return None
    places = (folder, folder / "additional_chat_templates")
    files = {file for pattern in READ for place in places for file in place.glob(pattern)}
    digest = hashlib.sha256()
    for file in sorted(files):
        stat = file.stat()
        digest.update(f"{file.relative_to(folder)}:{_file_hash(str(file), stat.st_size, stat.st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _file_hash(file: str, size: int, changed: int) -> str:
    """Once a process for a file of this size and time."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
