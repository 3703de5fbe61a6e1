"""Merge a run's adapter, and hold the merged model against what the run has evaluated."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorascope.base.architecture import load_architecture, model_class
from lorascope.base.checkpoint import method_of
from lorascope.base.hub import folder_hash
from lorascope.base.loading import Base, base_folder, load_tokenizer
from lorascope.config.schema import QuantizationConfig, RunConfig, Scheme
from lorascope.console import Bar
from lorascope.data.chat_template import with_template
from lorascope.data.sources import pin
from lorascope.data.tokenization import padded
from lorascope.delivery.finished_run import FinishedRun
from lorascope.delivery.merging import merge, tensors_of, with_adapter
from lorascope.delivery.model_card import Sections, write_card
from lorascope.errors import RunError
from lorascope.evaluation.measure import measure_of
from lorascope.records.record import RunRecord
from lorascope.session import Data, Session

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ROWS = 8  # of the eval half, whose logits are compared
# how far logits may lie apart, root mean square as a share of their standard deviation: by rounding, in 32 and 16 bits
BOUNDS = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
REPORT = "merge.json"


class DiffersError(RunError):
    """What was made of a run does not compute what the run's model does."""


def merge_run(
    run: FinishedRun, out: Path, *, dtype: str | None = None, check: bool = True, shown: Console | None = None,
    sections: Sections | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Merge the adapter of a run into its base in full precision.

    Args:
        run: its adapter is merged.
        out: the folder to write.
        dtype: of the merged weights; that of the run where it is not named.
        check: compare logits on eval rows, and measure the run's metrics again.
        shown: where progress goes; nowhere, where it is not named.
        sections: of the card, before that on the merge.

    Returns:
        `out`, `dtype`, what `merge` says, and with `check` the `logits` (apart, bound, rows) and each of the `metrics`
        as `evaluated` by the run and as `merged`; JSON-ready. It is written into the folder too.

    Raises:
        DiffersError: when the logits lie further apart than the bound; nothing is left then.
        ModelError: when the base cannot be had in full precision.
    """
    config = run.config
    dtype = dtype or str(config.model.dtype)
    _check_unchanged(config)
    full = _in_full_precision(config)
    compared = _Compared.of(full, run.adapter) if check else None
    base = base_folder(full.model)
    if base is None:
        raise RunError(f"model.path={full.model.path}", "is not in the local cache.", "Merge without --no-check, once.")
    found = {"run": run.name, "out": str(out), "dtype": dtype, "trained_in": str(config.quantization.scheme)}
    shown = shown or Console(quiet=True)
    with Bar(shown, "merging", tensors_of(base)) as bar:
        found |= merge(base, run.adapter, out, dtype, bar.step)
    if config.dataset.chat_template or config.dataset.template_kwargs:
        with_template(load_tokenizer(full.model), config.dataset).save_pretrained(out)
    try:
        found |= compared.with_merged(out, dtype, run.record, shown) if compared else {}
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    write_card(run.record, out, form="merged", sections={**(sections or {}), "The merge": _told(found)})
    report = {name: value for name, value in found.items() if name != "out"}
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return found


def _told(found: Mapping[str, Any]) -> list[str]:
    """What the card says of a merge."""
    told = [f"Merged into the base in full precision; the weights are in {found['dtype']}."]
    if "logits" in found:
        apart = f"{found['logits']['apart']:.1e} standard deviations from those of base and adapter"
        again = ", ".join(f"{name} {one['merged']:.4f}" for name, one in found["metrics"].items())
        told.append(f"On {found['logits']['rows']} eval rows its logits are {apart}. Measured again: {again}.")
    return told


def _check_unchanged(config: RunConfig) -> None:
    """Raise a RunError where base, rows or chat template are no longer those of the run."""
    now = {"dataset": pin(config.dataset).content, "model": folder_hash(config.model)}
    for name, content in now.items():
        if content != getattr(config, name).content:
            what = "its files are no longer those that the run has read."
            raise RunError(f"{name}.path={getattr(config, name).path}", what, "Bring them back, or train anew.")


def _in_full_precision(config: RunConfig) -> RunConfig:
    """The run's config with an unquantized base and nothing measured but the task.

    Raises:
        RunError: when the base is not stored in full precision.
    """
    model = config.model
    if not model.package and (method := method_of(load_architecture(dataclasses.replace(model, architecture={}))[0])):
        what = f"is stored in {method}; into rounded weights an adapter cannot be merged exactly."
        raise RunError(f"model.path={model.path}", what, "Serve the adapter beside it, or train on the base in full.")
    forgetting = dataclasses.replace(config.evaluation.forgetting, texts=0)
    evaluation = dataclasses.replace(config.evaluation, forgetting=forgetting, lm_eval=[])
    quantization = QuantizationConfig(scheme=Scheme.none, double_quant=False)
    return dataclasses.replace(config, quantization=quantization, evaluation=evaluation)


@dataclass(frozen=True)
class _Compared:
    """What the merged model is held against: made before it, so that one model at a time is in memory."""

    config: RunConfig
    data: Data
    tokenizer: PreTrainedTokenizerBase
    revision: str
    logits: list[torch.Tensor]

    @classmethod
    def of(cls, config: RunConfig, adapter: Path) -> _Compared:
        session = Session(lasting=False)
        inputs = session.inputs(config, Console(quiet=True))  # unpacks or downloads the base, where it is not here
        model = with_adapter(inputs.base.model, adapter)
        data = Data(inputs.rows, inputs.train, inputs.evaluation)
        return cls(config, data, inputs.base.tokenizer, inputs.base.revision, _logits(model, data, inputs.pad_id))

    def with_merged(self, out: Path, dtype: str, record: RunRecord, shown: Console) -> dict[str, Any]:
        """How far the merged model's logits are, and the run's metrics on it."""
        import torch
        from transformers import AutoConfig

        kind = model_class(AutoConfig.from_pretrained(str(out)))
        model = kind.from_pretrained(str(out), dtype=getattr(torch, dtype)).to(str(self.config.device)).eval()
        logits = _logits(model, self.data, int(self.tokenizer.pad_token_id or 0))
        apart = _apart(self.logits, logits)
        bound = max(BOUNDS[dtype], BOUNDS[str(self.config.model.dtype)])
        if not apart <= bound:
            what = f"its logits are {apart:.2g} standard deviations from those of base and adapter (at most {bound})."
            remedy = "Load base and adapter with PEFT, and report this with the model's name."
            raise DiffersError(str(out), what, remedy)
        base = Base(model, self.tokenizer, self.revision)
        measure = measure_of(self.config, base, self.data.rows, self.data.evaluation)
        with Bar(shown, "measuring", measure.steps) as bar:
            scores = measure.base(model, bar.step).values()
        metrics = {
            name: {"evaluated": entry["value"], "merged": scores[name], "unit": entry.get("unit", "")}
            for name, entry in record.metrics.items()
            if name in scores
        }
        return {"logits": {"apart": apart, "bound": bound, "rows": len(logits)}, "metrics": metrics}


def check_same(run: FinishedRun, adapter: Path) -> float:
    """How far the logits with another form of the run's adapter lie from those with its own, as `merge_run` has it.

    Raises:
        DiffersError: when they lie further apart than rounding explains.
    """
    session = Session()
    quiet = Console(quiet=True)
    found = []
    for folder in (run.adapter, adapter):
        inputs = session.inputs(run.config, quiet)
        data = Data(inputs.rows, inputs.train, inputs.evaluation)
        found.append(_logits(with_adapter(inputs.base.model, folder), data, inputs.pad_id))
        session.take_back()
    apart, bound = _apart(*found), BOUNDS[str(run.config.model.dtype)]
    if not apart <= bound:
        what = f"its logits are {apart:.2g} standard deviations from those of the run's adapter (at most {bound})."
        raise DiffersError(str(adapter), what, "Take the run's own adapter, and report this with the model's name.")
    return apart


def _apart(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> float:
    """The largest root mean square difference of a row's logits, in standard deviations of them."""
    pairs = zip(first, second, strict=True)
    return max(float((one - two).square().mean().sqrt() / one.std()) for one, two in pairs)


def _logits(model: Any, data: Data, pad_id: int) -> list[torch.Tensor]:
    """The logits of some eval rows, row by row, float32."""
    import torch

    found = []
    for row in range(min(ROWS, len(data.evaluation))):
        batch = padded(data.evaluation, [row], pad_id, model.device)
        batch.pop("labels")
        with torch.no_grad():
            found.append(model(**batch, use_cache=False).logits[0].float().cpu())
    return found


def show_merge(out: Console, found: dict[str, Any]) -> None:
    """Print what `merge_run` returns."""
    how = f"{found['weights']} weights in {found['dtype']}, {found['way']}"
    out.print(Text.assemble(("merged", "bold"), f"  {found['out']}   {how}"))
    if "logits" not in found:
        out.print("not compared with what was evaluated (--no-check)")
        return
    logits = found["logits"]
    where = f"on {logits['rows']} eval rows (bound {logits['bound']:g})"
    out.print(f"logits  {logits['apart']:.1e} standard deviations apart, {where}")
    if found["dtype"] != "float32":
        out.print(f"rounding to {found['dtype']} takes some of what was learned; --dtype float32 keeps it")
    if found["trained_in"] != "none":
        out.print(f"The run was evaluated on a base in {found['trained_in']}; merged is the base in full precision:")
    table = Table(box=None, pad_edge=False)
    for title in ("metric", "evaluated", "merged", ""):
        table.add_column(title, justify="left" if title in ("metric", "") else "right")
    for name, one in found["metrics"].items():
        table.add_row(name, f"{one['evaluated']:.4f}", f"{one['merged']:.4f}", one["unit"])
    out.print(table)
