"""Turn errors of Hydra, OmegaConf and YAML into a ConfigError with place, value and remedy."""

from __future__ import annotations

import dataclasses
import re
import sys
import traceback
import typing
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException, SearchPathException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    KeyValidationError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from lorascope.compat import last_read, was_composing
from lorascope.config.hints import choices_of, choose, hint, known_groups, suggest
from lorascope.config.schema import RunConfig, all_settings
from lorascope.errors import ConfigError

HELP = "All settings and their values: python train.py --help"
# Hydra's sentence -> place, value, remedy
WORDS = (
    (
        r"(?:Ambiguous value for argument|Sweep parameters) '(.+)'",
        "{0}", "must be one value for one run (got several).",
        "Add -m to run each of them. A list is [a,b]; quote a text that has commas.",
    ),
    (r"already at '(.+)'", "+{0}", "the config has this setting.", "Write it without the +: {0}=VALUE"),
    (r"^(\S+) appears more than once", "+{0}", "is chosen twice.", "Write it without the +: {0}=CHOICE"),
    (r"delete from config\. '(.+)' does not exist", "~{0}", "there is no such setting.", HELP),
    (r"The value of '(.+)' is (.+) and not (.+)\.", "~{0}={2}", "its value is {1}.", "Leave the value out: ~{0}"),
    (r"Override (\S+) looks like a config group", "{0}", "there is no such group.", HELP),
    (
        r"^Multiple values for (\S+)\. To override",
        "{0}", "is chosen twice.",
        "On the command line leave the + out: {0}=CHOICE; in a file's defaults write - override /{0}: CHOICE",
    ),
    (r"Duplicate _self_ defined in (\S+)", "{0}.yaml", "its defaults hold _self_ twice.", "Leave one of them."),
)  # fmt: skip
# the value in OmegaConf's sentences
VALUE = re.compile(
    r"[Vv]alue ('.*') of type|[Vv]alue ('.*'), expected|[Vv]alue (.*) \(\w+\) is not|[Vv]alue ('.*') (?:could|is)"
    r"|to string: (.*)$|assigned: (\w+) is"
)

EXAMPLES = {
    "a whole number": "8", "a number": "0.1", "true or false": "true", "text": "name", "a number or a name": "10M",
    "a dictionary": "'{name: value}'", "a list": "[one,two]",
}  # fmt: skip


def composing(error: BaseException) -> bool:
    """Whether an error came before a run began: whatever its kind, it is about words or files."""
    if was_composing(error):
        return True
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [name for name in modules if name.startswith("lorascope.")]
    return ours == ["lorascope.cli.main"] and not isinstance(error, OSError)  # Hydra writes a sweep's folder as well


def explain(error: Exception, words: Sequence[str] | None = None) -> ConfigError:
    """What Hydra, OmegaConf or a reader of YAML raised about overrides, by default those of the command line."""
    words = sys.argv[1:] if words is None else words
    found = _explain(error, words)
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        key = word.lstrip("+~-").partition("=")[0]
        if re.match(rf"[+~]*{re.escape(key)}(=|$|: | )", found.place) and (remedy := hint(word, following)):
            return ConfigError(found.place, found.what, remedy)
    return found


def _explain(error: Exception, words: Sequence[str]) -> ConfigError:
    if isinstance(error, MissingConfigException):
        return _explain_missing(error)
    if isinstance(error, OverrideParseException):
        remedy = "Write KEY=VALUE, GROUP=CHOICE; quote spaces, braces and ~."
        return ConfigError(error.override, "cannot be read.", remedy)
    file, word = last_read(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return explain_reading(error, file, word)
    cause = error if isinstance(error, OmegaConfBaseException) else (error.__cause__ or error.__context__)
    if match := re.match(r"In '([^']+)':", str(error)):
        file = f"{match[1]}.yaml"
    if isinstance(cause, OmegaConfBaseException):
        return explain_value(cause, _quoted_override(str(error), words), f"{file}: " if file else "")
    return _explain_words(error, file)


def explain_reading(error: Exception, file: str, word: str = "") -> ConfigError:
    """An error that is neither Hydra's nor OmegaConf's own."""
    head = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or head
        place = f"{file}, line {mark.line + 1}" if mark else file
        return ConfigError(place, f"is not valid YAML: {what}.", "Quote values that contain : # { } [ ] or $.")
    if isinstance(error, UnicodeDecodeError):
        return ConfigError(file, f"byte {error.object[error.start]:#04x} is not UTF-8.", "Save the file as UTF-8.")
    if isinstance(error, RecursionError):
        return ConfigError(file or word or "config", "is nested too deeply.", "Look for a name that refers to itself.")
    if "Config group override must be" in head:
        group = word.partition("=")[0].lstrip("+")
        known = f"There are: {', '.join(choices_of(group))}." if group in known_groups() else "Write GROUP=CHOICE."
        return ConfigError(word, "must name a choice.", known)
    if "Invalid loaded object type" in head:
        return ConfigError(file, "has no settings.", "Write them as NAME: VALUE, one per line.")
    what = getattr(error, "strerror", None) or head.rstrip(".")
    remedy = "Correct the file." if file else HELP
    return ConfigError(file[:200] or word or "config", f"cannot be read: {what}.", remedy)


def explain_value(cause: OmegaConfBaseException, override: str, file: str) -> ConfigError:
    """OmegaConf's complaint about one setting."""
    said = override.partition("=")[0].lstrip("+~")
    key = str(cause.full_key or cause.key or "") or said
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        key = key if not said or key.startswith(f"{said}.") else said
        return ConfigError(override or f"{file}{key}", f"there is no setting '{key}'.", suggest(key))
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(f"{file}{key}", "must be given.", f"Add {key}=VALUE.")
    what = re.sub(r"\s+", " ", (cause.msg or str(cause)).splitlines()[0]).rstrip(".")
    if isinstance(cause, InterpolationResolutionError | GrammarParseError):
        return ConfigError(f"{file}{key}", f"{what}.", "Correct the ${…}.")
    if isinstance(cause, KeyValidationError):
        return ConfigError(f"{file}{key}".removesuffix(": "), f"{what}.", "Names must be text: put this one in quotes.")
    if "Cannot merge DictConfig with ListConfig" in what and not key:  # a file's; which setting, it does not tell
        what = "a list stands where names are expected, or names where a list is expected"
    if override.startswith("~"):
        return ConfigError(override, "cannot be deleted: every run needs it.", "Set another value instead.")
    if found := re.search(r"is not a subclass of (\w+)", what):
        named = (name for name, kind in all_settings().items() if getattr(kind, "__name__", "") == found[1])
        key = key or next(named, "")
    if dataclasses.is_dataclass(all_settings().get(key)):
        what = f"'{key}' is a group of settings, not a value."
        return ConfigError(override or f"{file}{key}", what, suggest(f"{key}.?"))
    wanted = _wanted(key)
    if not wanted:
        return ConfigError(f"{file}{key}".removesuffix(": ") or "config", f"{what}.", HELP)
    value = VALUE.search(what)
    given = override.partition("=")[2] or "this"
    told = next(filter(None, value.groups()), "''") if value else "null" if "Optional" in what else given
    default: Any = RunConfig()
    for part in key.split("."):
        default = getattr(default, part, None)
    example = EXAMPLES.get(wanted) or wanted.removeprefix("one of ").partition(",")[0]
    numeric = wanted in ("a whole number", "a number") and default is not None
    remedy = f"The default is {default}." if numeric else f"For example {key}={example}."
    return ConfigError(f"{file}{key}", f"must be {wanted} (got {told}).", remedy)


def _explain_words(error: Exception, file: str) -> ConfigError:
    """Hydra's complaint about what the words do."""
    text = str(error).strip()
    head, _, rest = text.partition("\n")
    if isinstance(error, SearchPathException):
        remedy = "Name a folder that holds target/, model/ and the like."
        return ConfigError("--config-dir", head.rstrip(".") + ".", remedy)
    if match := re.match(r"Could not override '(.+?)'", head):
        return ConfigError(match[1], f"there is no group or setting '{match[1]}'.", suggest(match[1]))
    for pattern, *parts in WORDS:
        if match := re.search(pattern, head):
            place, what, remedy = (part.format(*match.groups()) for part in parts)
            return ConfigError(place, what, remedy)
    return ConfigError(file or "config", f"{head.rstrip('.')}.", rest.strip() or HELP)


def _explain_missing(error: MissingConfigException) -> ConfigError:
    if not error.missing_cfg_file:
        return ConfigError("--config-path", "is not a folder of configs.", "Your own go with --config-dir DIR.")
    missing = error.missing_cfg_file
    groups = [*known_groups(), missing.rpartition("/")[0]]  # a choice may hold a slash, and so may a group of Hydra's
    group = next((group for group in groups if group and missing.startswith(f"{group}/")), "")
    if not group:
        return ConfigError("config", f"'{missing}' is not in the config folders.", "Look with --info searchpath.")
    choice = missing[len(group) + 1 :]
    options = [option for option in error.options or choices_of(group) if option != choice]
    remedy = f"{choose(group, choice)} There are: {', '.join(options)}. ".lstrip()
    own = f"Your own is DIR/{group}/{choice}.yaml with --config-dir DIR."
    return ConfigError(f"{group}={choice}", f"there is no {group} '{choice}'.", remedy + own)


def _quoted_override(text: str, words: Sequence[str]) -> str:
    match = re.search(r"(?:Could not override|Error merging override|Could not append to config\S*) '?([^'\n]+)", text)
    key = match[1].strip().rstrip(".") if match else ""
    return next((word for word in words if key and word.lstrip("+~").startswith(key.lstrip("+~"))), key)


KINDS = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a dictionary", list: "a list",
}  # fmt: skip


def _wanted(key: str) -> str:
    """What kind of value a setting takes, from the schema."""
    kind: Any = RunConfig
    for part in key.partition("[")[0].split("."):
        if typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        else:
            kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    origin = typing.get_origin(kind)
    kinds = [origin] if origin in KINDS else [kind, *typing.get_args(kind)]
    if int in kinds and str in kinds:
        return "a number or a name"
    for one in kinds:
        if one in KINDS:
            return KINDS[one]
        if members := getattr(one, "__members__", None):
            return f"one of {', '.join(members)}"
    return ""
