"""Reading from the Hugging Face hub or a local folder, with its failures told as place, value and remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorascope.config import ModelConfig
from lorascope.errors import ModelError, out_of_memory

PLAN_HINT = "The plan works without: dry_run=true."


def from_hub(load: Callable[..., Any], model: ModelConfig, *, local: bool = False, **options: Any) -> Any:
    """`load(path, **options)`, for a hub id at its revision or for a local folder.

    Raises:
        ModelError: when it is gated, missing, out of reach, or not a model folder.
    """
    assert model.path
    options["trust_remote_code"] = model.trust_remote_code  # without it, transformers stops and asks on the terminal
    if local:
        folder = Path(model.path).expanduser()
        if not (folder / "config.json").is_file():
            what = "has no config.json." if folder.is_dir() else "is not a folder."
            raise ModelError(f"model.path={model.path}", what, "Name a folder that save_pretrained wrote, or a hub id.")
        try:
            return load(str(folder), local_files_only=True, **options)
        except Exception as error:
            if out_of_memory(error):
                raise
            raise _unknown_code(error, f"model.path={model.path}") or ModelError(
                f"model.path={model.path}", f"cannot be loaded: {_first_line(error)}", "Look into the folder."
            ) from error
    try:
        return load(model.path, revision=model.revision, local_files_only=not reachable(model), **options)
    except (OSError, ValueError) as error:
        raise explain(error, model) from error


def reachable(model: ModelConfig) -> bool:
    """Whether the hub answers for this model: one question, instead of five retries for every file.

    Raises:
        ModelError: when it answers that the model is gated or does not exist.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    assert model.path
    try:
        HfApi().model_info(model.path, revision=model.revision, timeout=10)
    except HfHubHTTPError as error:
        raise explain(error, model) from error
    except (OfflineModeIsEnabled, OSError):
        return False
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "httpx2", "httpcore2", "requests"):
            return False
        raise
    return True


def explain(error: Exception, model: ModelConfig) -> ModelError:
    """The hub's refusal in the user's words."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    place = f"model={model.name}" if model.name != "hf" else f"model.path={model.path}"
    if any(isinstance(link, GatedRepoError) for link in chain):
        return ModelError(
            place,
            f"the hub says that {model.path} is gated, and this machine's token has no access.",
            f"Accept its licence on the model's page, then set HF_TOKEN. {PLAN_HINT}",
        )
    if any(isinstance(link, RevisionNotFoundError) for link in chain):
        return ModelError("model.revision", f"{model.path} has no revision '{model.revision}'.", "Take main.")
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return ModelError(
            place,
            f"the hub knows no model {model.path}, or it is private.",
            "Check the id; for a private one set HF_TOKEN.",
        )
    if unknown := _unknown_code(error, place):
        return unknown
    text = " ".join(str(link) for link in chain)
    if "connect" in text or "offline" in text.lower() or "cached files" in text:
        return ModelError(
            place,
            f"the hub cannot be reached, and {model.path} is not in the local cache.",
            f"Connect once, or name a local folder: model=hf model.path=FOLDER. {PLAN_HINT}",
        )
    return ModelError(place, _first_line(error), PLAN_HINT)


def _unknown_code(error: Exception, place: str) -> ModelError | None:
    """A model whose code is not in the installed transformers: it brings its own, or is newer."""
    text = str(error)
    if "trust_remote_code" in text:
        return ModelError(
            place,
            "this model brings its own code, which lorascope does not run unasked.",
            "Take a model whose type transformers knows, or read the code and ask for it: model.trust_remote_code=true "
            "model.revision=COMMIT",
        )
    if found := re.search(r"model type [`'](\S+?)[`'] but Transformers does not recognize", text):
        import transformers

        return ModelError(
            place,
            f"its model type '{found[1]}' is unknown to transformers {transformers.__version__}.",
            "It may be newer: install a later transformers, or check model_type in its config.json.",
        )
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
