"""Training speed beside fairseq's own iterative_nonautoregressive_transformer, at equal sizes, steps, words and batch.

  python scripts/benchmark_training.py --out examples/benchmarks/results/training.json

One update: forward, loss, backward, Adam. Both models train their refinement steps on a random batch; fairseq's has one decoder
and ours two, with positional attention and a highway gate more a layer.
"""

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from common.checked_options import output_file
from common.nat_benchmarks import (
    FAIRSEQ,
    NAT_ROWS,
    add_model_arguments,
    choose_device,
    fairseq_model,
    make_dictionary,
    make_model,
    make_sentences,
    setting,
    summary,
    take_turns,
)
from common.run_record import run_record
from common.whole_file import write_json
from fairseq.criterions.nat_loss import LabelSmoothedDualImitationCriterion
from fairseq.data import Dictionary, data_utils
from torch import Tensor, nn

from momentum_fairseq.criterions.nat_refinement_loss import NatRefinementLoss
from momentum_fairseq.ops import corrupt


def fairseq_sample(source: Tensor, targets: list[Tensor], dictionary: Dictionary) -> dict[str, Any]:
    """As translation_lev makes it: targets between BOS and EOS, the first input all unknown."""
    bos, eos = torch.tensor([dictionary.bos()]), torch.tensor([dictionary.eos()])
    target = data_utils.collate_tokens([torch.cat([bos, t, eos]) for t in targets], dictionary.pad())
    special = target.eq(dictionary.bos()) | target.eq(dictionary.eos()) | target.eq(dictionary.pad())
    masked = target.masked_fill(~special, dictionary.unk())
    net_input = {"src_tokens": source, "src_lengths": source.ne(dictionary.pad()).sum(1), "prev_output_tokens": masked}
    return {"net_input": net_input, "target": target, "ntokens": sum(map(len, targets)), "nsentences": len(targets)}


def make_update(model: nn.Module, loss_of: Callable[[], Tensor]) -> Callable[[], None]:
    """One update as a call."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def update() -> None:
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()

    return update


def fairseq_loss(
    model: nn.Module, source: Tensor, targets: list[Tensor], dictionary: Dictionary, device: torch.device
) -> Callable[[], Tensor]:
    """Its loss on a batch, as a call."""
    criterion = LabelSmoothedDualImitationCriterion(Namespace(target_dictionary=dictionary), label_smoothing=0.0)
    sample = to_device(fairseq_sample(source, targets, dictionary), device)
    sample["prev_target"] = sample["net_input"]["prev_output_tokens"]
    return lambda: criterion(model, sample)[0]


def our_loss(
    model: nn.Module, source: Tensor, targets: list[Tensor], dictionary: Dictionary, device: torch.device, steps: int
) -> Callable[[], Tensor]:
    """Our loss a target token, as a call; half of the refinement steps denoise, as with p_dae = 0.5, drawn anew each time."""
    criterion, tokens = NatRefinementLoss(None, 1.0), sum(map(len, targets))
    net_input = {"src_tokens": source.to(device), "src_lengths": source.ne(dictionary.pad()).sum(1).to(device)}
    target = data_utils.collate_tokens(targets, dictionary.pad()).to(device)
    special, ordinary = (dictionary.bos(), dictionary.pad(), dictionary.eos()), (dictionary.nspecial, len(dictionary))

    def loss() -> Tensor:
        noisy = (corrupt(target, rate=0.1, special=special, ordinary=ordinary) if i % 2 else None for i in range(steps - 1))
        sample = {"net_input": net_input, "target": target, "step_inputs": list(noisy), "ntokens": tokens}
        return criterion(model, sample)[0] / tokens

    return loss


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def to_device(value: Any, device: torch.device) -> Any:
    """A nested dict with its tensors on the device."""
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--steps", type=int, default=4, help="decoder passes an update (4)")
    parser.add_argument("--sentences", type=int, default=64, help="sentences a batch (64)")
    parser.add_argument("--rows", nargs="+", choices=NAT_ROWS, default=list(NAT_ROWS), help="ours to compare (all)")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    options = parser.parse_args()
    device, dictionary = choose_device(options), make_dictionary(options.vocabulary)
    sources, targets = make_sentences(options, options.sentences, dictionary)
    batch = (data_utils.collate_tokens(sources, dictionary.pad(), left_pad=True), targets, dictionary, device)
    models = {FAIRSEQ: fairseq_model(options, dictionary, options.steps).to(device).train()}
    updates = {FAIRSEQ: make_update(models[FAIRSEQ], fairseq_loss(models[FAIRSEQ], *batch))}
    for name in options.rows:
        models[name] = make_model(options, dictionary, NAT_ROWS[name]).to(device).train()
        updates[name] = make_update(models[name], our_loss(models[name], *batch, options.steps))
    seconds, tokens = take_turns(updates, options.runs, device), sum(map(len, targets))
    rows = []
    for name, times in seconds.items():
        result = summary(times, seconds[FAIRSEQ], target_tokens=tokens)
        rows.append({"row": name, "parameters": count(models[name]), **result})
        speed = f"{result['target_tokens_per_second']:9.1f} target tokens/s  {result['speed_ratio']:.3f} × fairseq"
        print(f"{name:12} {rows[-1]['parameters'] / 1e6:6.2f} M parameters {speed}")
    if options.out:
        sizes = {"steps": options.steps, "sentences": options.sentences, "target_tokens": tokens}
        write_json(options.out, {**run_record(sys.argv), **setting(options, device), **sizes, "rows": rows})


if __name__ == "__main__":
    main()
