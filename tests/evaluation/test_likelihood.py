import pytest
import torch
from datasets import Dataset

from helpers import make_model, make_tokenizer
from lorascope.config.schema import Ranks, TargetConfig
from lorascope.data.tokenization import IGNORED
from lorascope.evaluation.loss import token_losses
from lorascope.targets.attach import attach
from lorascope.targets.build_plan import plan_targets
from lorascope.targets.module_map import map_modules

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
LABELS = torch.tensor([[IGNORED, IGNORED, 7, 8, IGNORED, 10], [IGNORED, 12, IGNORED, 14, IGNORED, IGNORED]])


def test_it_is_the_log_softmax_of_the_whole_logits_at_the_supervised_places():
    model = make_model().eval()
    with torch.no_grad():
        logits = torch.log_softmax(model(IDS, attention_mask=MASK).logits, dim=-1)
        expected = [
            -logits[row, column - 1, LABELS[row, column]]
            for row in range(2)
            for column in range(1, 6)
            if LABELS[row, column] != IGNORED
        ]
        losses = token_losses(model, {"input_ids": IDS, "attention_mask": MASK}, LABELS)
    assert losses.shape == (5,)
    assert torch.allclose(losses, torch.stack(expected), atol=1e-6)


def test_only_supervised_columns_reach_the_vocabulary():
    model = make_model().eval()
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    token_losses(model, {"input_ids": IDS, "attention_mask": MASK}, LABELS)
    assert seen == [4]  # columns 0, 1, 2 and 4 predict a supervised token in some row


def test_loss_and_gradients_are_those_of_trls_own_head(tmp_path):
    """TRL's trainer, unchanged, on the same batch: the sum is the same, and so is every gradient."""
    from trl import SFTConfig, SFTTrainer

    def adapted():
        base = make_model()
        plan = plan_targets(TargetConfig(ranks=Ranks(all=4), lora_dropout=0.0), map_modules(base, "tiny", "here"))
        model = attach(base, plan, 0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        return model

    args = SFTConfig(
        str(tmp_path), report_to="none", bf16=False, use_cpu=True, activation_checkpointing=False, logging_steps=10
    )
    peer = SFTTrainer(
        adapted(),
        args=args,
        train_dataset=Dataset.from_dict({"input_ids": [[5, 6]], "labels": [[5, 6]]}),
        processing_class=make_tokenizer(),
    )
    peer.model.train()
    theirs = peer.compute_loss(
        peer.model, {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}, num_items_in_batch=torch.tensor(5)
    )
    theirs.backward()
    model = adapted().train()
    ours = token_losses(model, {"input_ids": IDS, "attention_mask": MASK}, LABELS).sum() / 5
    ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    gradients = {name: p.grad for name, p in peer.model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-7), name
