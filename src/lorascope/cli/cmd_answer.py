"""lorascope generate, chat and serve: ask trained runs, beside their base where that is wanted."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from lorascope.cli import Command, add_run, add_runs_dir, port
from lorascope.cli.cmd_runs import find_run
from lorascope.errors import ConfigError, RunError

if TYPE_CHECKING:
    from lorascope.data.rows import Message
    from lorascope.delivery.answering import Decoding, SharedBase
    from lorascope.delivery.finished_run import FinishedRun


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    """What both commands take."""
    add_run(parser)
    text = "ask the base too, and these further runs on it"
    parser.add_argument("--compare", metavar="RUN", nargs="*", help=text)
    text = "the system message (default: the one that the run's data have)"
    parser.add_argument("--system", metavar="TEXT", help=text)
    parser.add_argument("--max-new-tokens", metavar="N", type=_positive, default=256, help="of an answer (256)")
    text = "0 takes the most likely token, as the evaluation does; above, tokens are drawn (0)"
    parser.add_argument("--temperature", metavar="T", type=_temperature, default=0.0, help=text)
    text = "draw among the most likely tokens that have this probability together (1)"
    parser.add_argument("--top-p", metavar="P", type=_share, default=1.0, help=text)
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to compute (default: that of the run)")
    add_runs_dir(parser)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 up")
    return int(text)


def _temperature(text: str) -> float:
    value = _number(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 up")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from error


def _decoding(options: argparse.Namespace) -> Decoding:
    from lorascope.delivery.answering import Decoding

    return Decoding(options.max_new_tokens, options.temperature, options.top_p, options.seed)


def _opened(options: argparse.Namespace) -> tuple[SharedBase, list[FinishedRun | None]]:
    """The base, and what is asked: the run alone, or with --compare the base first, then each run."""
    from lorascope.console import console, hush
    from lorascope.delivery.answering import SharedBase
    from lorascope.delivery.finished_run import finished_run

    hush()
    words = dict.fromkeys([options.run, *(options.compare or [])])
    named = [finished_run(*find_run(word, options.runs)).on(options.device) for word in words]
    found = {run.folder.resolve(): run for run in named}
    runs = list(found.values())
    asked: list[FinishedRun | None] = [None, *runs] if options.compare is not None else [*runs]
    return SharedBase(runs, console(stderr=True)), asked


def _opening(options: argparse.Namespace, run: FinishedRun) -> tuple[Message, ...]:
    """The system message, as a conversation begins with it; of a run on texts none."""
    from lorascope.data.rows import Message
    from lorascope.delivery.answering import learns_texts, system_message

    if learns_texts(run):
        if options.system:
            raise ConfigError("--system", f"has no place: {run.name} was trained on texts, not conversations.")
        return ()
    text = options.system
    if text is None and (text := system_message(run)):
        print(f"system message of {run.name}: {text}", file=sys.stderr)
    return (Message("system", text),) if text else ()


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    _common_arguments(parser)
    text = "a question, or the beginning of a text; may be repeated; - reads it from standard input"
    parser.add_argument("--prompt", metavar="TEXT", action="append", default=[], help=text)
    parser.add_argument("--dataset", action="store_true", help="answer the eval rows of the run again")
    parser.add_argument("--json", action="store_true", help="print an object for each prompt")


def _run_generate(options: argparse.Namespace) -> None:
    """Answer prompts, or the data set's eval rows."""
    if bool(options.prompt) == options.dataset:
        raise ConfigError("generate", "needs something to answer.", "Give --prompt TEXT, or --dataset; not both.")
    if options.dataset and (options.temperature or options.system is not None):
        raise ConfigError("--dataset", "has no place for --temperature and --system: rows are answered as evaluated.")
    if options.dataset:
        _answer_rows(options)
        return
    from lorascope.data.rows import Message
    from lorascope.delivery.answering import name_of

    prompts = [sys.stdin.read().removesuffix("\n") if text == "-" else text for text in options.prompt]
    if not all(text.strip() for text in prompts):
        raise ConfigError("--prompt", "is empty.", "Give a text.")
    shared, models = _opened(options)
    alone = len(models) == 1 and not options.json
    answers: dict[str, list[str]] = {}
    openings = {run.name: _opening(options, run) for run in shared.runs}
    for model in models:
        for prompt in prompts:
            turns = (*openings[(model or shared.runs[0]).name], Message("user", prompt))
            answers.setdefault(name_of(model), []).append(_said(shared, model, turns, _decoding(options), alone))
    rows = [
        {"prompt": prompt} | {name: said[row] for name, said in answers.items()} for row, prompt in enumerate(prompts)
    ]
    if options.json:
        for row in rows:
            print(json.dumps({"prompt": row.pop("prompt"), "answers": row}, ensure_ascii=False))
    elif not alone:
        _show_side_by_side(rows)


def _said(
    shared: SharedBase, model: FinishedRun | None, turns: Sequence[Message], decoding: Decoding, stream: bool
) -> str:
    """An answer, printed while it is written where it is to be."""
    from lorascope.delivery.answering import answer, question

    run = model or shared.runs[0]
    adapted, base = shared.model(model), shared.base(run)
    asked = question(run, base.tokenizer, turns)
    said = answer(adapted, base, asked, decoding, _write if stream else None)
    if stream:
        print(flush=True)
    return said


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _show_side_by_side(rows: Sequence[dict[str, str]]) -> None:
    """A column for each model, a line for each prompt."""
    from lorascope.console import console

    table = Table(box=None, pad_edge=False, show_lines=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(text) for text in row.values()))
    out = console()
    out.soft_wrap = False
    out.print(table)


def _answer_rows(options: argparse.Namespace) -> None:
    """The eval rows, answered as the evaluation does, and how many answers are those that the run recorded."""
    from lorascope.delivery.answering import ask_again

    shared, models = _opened(options)
    found = ask_again(shared, models)
    if options.json:
        for row in found.rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        _show_side_by_side(found.rows)
    for metric, values in found.scores.items():
        each = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        shared.out.print(f"{metric}  {each}   over {len(found.rows)} rows")
    if found.recorded:
        shared.out.print(f"{found.recorded[0]} of {found.recorded[1]} answers are those that the run recorded")


GENERATE = Command(
    "generate",
    "answer prompts, or the eval rows again, with a run's adapter; with --compare beside the base and other runs.",
    "lorascope generate qv_ffn-smollm2 --prompt 'turn on the lamp' --compare",
    _generate_arguments,
    _run_generate,
)

HELP = "/new begins anew, /system TEXT changes the system message; Ctrl-C stops an answer, Ctrl-D ends"


def _run_chat(options: argparse.Namespace) -> None:
    """A conversation with each model, until the input ends."""
    from lorascope.data.rows import Message
    from lorascope.delivery.answering import learns_texts, name_of

    shared, models = _opened(options)
    if any(map(learns_texts, shared.runs)):
        remedy = "Continue one: lorascope generate RUN --prompt 'Once upon'"
        raise RunError(shared.runs[0].name, "was trained on texts, not conversations.", remedy)
    of_runs = {run.name: _opening(options, run) for run in shared.runs}
    openings = [of_runs[(model or shared.runs[0]).name] for model in models]
    turns: list[list[Message]] = [[*opening] for opening in openings]
    print(HELP, file=sys.stderr)
    for line in _lines():
        command, _, more = line.partition(" ")
        if command in ("/new", "/system"):
            if command == "/system":
                openings = [(Message("system", more.strip()),) if more.strip() else () for _ in models]
            turns = [[*opening] for opening in openings]
            continue
        if line.startswith("/"):
            print(HELP, file=sys.stderr)
            continue
        for model, mine in zip(models, turns, strict=True):
            if len(models) > 1:
                print(f"{name_of(model)}:")
            mine.append(Message("user", line))
            try:
                mine.append(Message("assistant", _said(shared, model, mine, _decoding(options), stream=True)))
            except KeyboardInterrupt:
                print("\n(stopped; this question is forgotten)", file=sys.stderr)
                mine.pop()
            except RunError as error:  # longer than the context
                print(error, file=sys.stderr)
                mine.pop()


def _lines() -> Iterator[str]:
    """What is typed or piped, line by line, without empty ones."""
    typed = sys.stdin.isatty()
    if typed:
        import readline  # noqa: F401  editing and history
    while True:
        try:
            line = input("> " if typed else "").strip()
        except EOFError:
            if typed:
                print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if line:
            yield line


CHAT = Command(
    "chat",
    "talk with a run's model in the terminal; with --compare each answers in turn.",
    "lorascope chat qv_ffn-smollm2",
    _common_arguments,
    _run_chat,
)


def _serve_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    from lorascope.delivery.serving import ENGINES

    text = "runs on one base: folders, run ids, or beginnings of names"
    parser.add_argument("runs_", metavar="RUN", nargs="+", help=text)
    parser.add_argument("--engine", choices=ENGINES, help="who serves (default: the one that is installed)")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=port, default=8000, help="where to listen (8000)")
    parser.add_argument("--dry-run", action="store_true", help="print the command, start and write nothing")
    parser.add_argument("--json", action="store_true", help="print the command as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to merge (default: that of the run)")
    add_runs_dir(parser)


def _run_serve(options: argparse.Namespace) -> None:
    """Start the engine, or print what would start it."""
    from lorascope.console import hush
    from lorascope.delivery.finished_run import finished_run
    from lorascope.delivery.serving import INSTALL, installed, serving

    hush()
    runs = [finished_run(*find_run(word, options.runs)).on(options.device) for word in dict.fromkeys(options.runs_)]
    here = installed()
    engine = options.engine or ("vllm" if len(runs) > 1 else next(iter(here), "vllm"))
    found = serving(runs, engine, host=options.host, port=options.port)
    address = f"http://{options.host}:{options.port}/v1"
    told = {"engine": engine, "installed": engine in here, "words": found.words, "address": address}
    print(json.dumps(told) if options.json else shlex.join(found.words), flush=True)
    if engine not in here:
        print(f"{engine} is not installed here: {INSTALL[engine]}", file=sys.stderr)
    if options.dry_run or engine not in here:
        return
    found.prepare()
    print(f"{address}   Ctrl-C ends it", file=sys.stderr, flush=True)
    os.execvp(found.words[0], found.words)


SERVE = Command(
    "serve",
    "serve a run with vLLM or transformers, whichever is installed, or print the command; vLLM serves several runs.",
    "lorascope serve qv_ffn-smollm2",
    _serve_arguments,
    _run_serve,
)
