"""Push an adapter or a model to a hub: weights, card and config, and nothing of this machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorascope.delivery.finished_run import FinishedRun
from lorascope.delivery.model_card import write_card
from lorascope.errors import RunError, first_line
from lorascope.records.environment import secrets

TEXTS = (".json", ".md", ".yaml", ".jinja", ".txt", ".py")
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json", "adapter.gguf")
NETWORK = ("httpx", "httpcore", "httpx2", "httpcore2", "requests")


def push(what: FinishedRun | Path, name: str, *, private: bool = False) -> dict[str, Any]:
    """Make a repository on the hub, where there is none, and commit a run's adapter or a folder to it.

    Args:
        what: a run, whose adapter is pushed with a card written now; or a folder that merge, export or ship wrote.
        name: ORG/NAME.
        private: of a repository that is made.

    Returns:
        `url` of the commit, `files` and `bytes`; JSON-ready.

    Raises:
        RunError: when the folder holds no weights or something of this machine, or the hub does not take it.
    """
    from huggingface_hub import HfApi

    with _staged(what) as folder:
        check_public(folder)
        files = [file for file in folder.rglob("*") if file.is_file()]
        with _explained(name):
            api = HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            title = what.name if isinstance(what, FinishedRun) else folder.name
            url = api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"Upload {title} with lorascope")
        return {"url": str(url.commit_url), "files": len(files), "bytes": sum(file.stat().st_size for file in files)}


@contextmanager
def _staged(what: FinishedRun | Path) -> Iterator[Path]:
    """The folder to push: of a run a copy of its adapter, with the base's public name and a card."""
    if isinstance(what, Path):
        if not any((what / name).is_file() for name in WEIGHTS):
            raise RunError(str(what), "holds no adapter and no model.", "Name a run, or what merge or export wrote.")
        yield what
        return
    with tempfile.TemporaryDirectory(prefix="lorascope-") as aside:
        folder = Path(aside, what.name)
        folder.mkdir()
        shutil.copy2(what.adapter / WEIGHTS[0], folder)
        config = json.loads((what.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = what.base_name  # earlier versions wrote where it lay
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_card(what.record, folder)
        yield folder


def check_public(folder: Path) -> None:
    """Raise a RunError for a file that names a place of this machine, or holds a secret of the environment."""
    places = {str(one) for one in (Path.home(), Path.cwd(), folder.absolute().parent)} - {"/"}
    for file in sorted(folder.rglob("*")):
        if file.suffix not in TEXTS or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        for value, name in secrets(os.environ).items():
            if value in text:
                raise RunError(str(file), f"holds the value of {name}.", "Remove it, and push again.")
        for place in places:
            if f"{place}/" in text:
                what = f"names a place of this machine: {place}."
                raise RunError(str(file), what, "Write it anew with lorascope merge or export, or mend the file.")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What the hub says, in the user's words."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        raise RunError(f"--to {name}", "is not the name of a repository.", "Write ORG/NAME.") from error
    except LocalTokenNotFoundError as error:
        raise RunError("HF_TOKEN", "is not set, and nobody is logged in.", "Set it, or run: hf auth login") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            what = (
                "the hub does not let this token write there." if code == 403 else "the hub does not know this token."
            )
            raise RunError(f"--to {name}", what, "Set HF_TOKEN to one with write access to it.") from error
        raise RunError(f"--to {name}", f"the hub answers {code}: {first_line(error)}") from error
    except (OfflineModeIsEnabled, OSError) as error:
        raise RunError(
            f"--to {name}", f"the hub cannot be reached ({first_line(error)}).", "Connect, and push again."
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in NETWORK:
            raise
        raise RunError(
            f"--to {name}", f"the hub cannot be reached ({first_line(error)}).", "Connect, and push again."
        ) from error
