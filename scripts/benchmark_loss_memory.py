"""Peak memory of a training update at a large vocabulary: whole logits beside the loss by blocks of them.

  python scripts/benchmark_loss_memory.py --vocabulary 40000 --embed-dim 128 --ffn-dim 256 --layers 3 --heads 4 --out memory.json

Forward, loss and backward of the refinement model, 4 decoder passes, momentum attention, on a random batch: the most that torch's
allocator held beyond what it held before, which is parameters, their gradients and the batch. Both losses must agree.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from common.checked_options import output_file, positive
from common.measuring import peak_bytes
from common.nat_benchmarks import ROWS, add_model_arguments, choose_device, make_dictionary, make_model, make_sentences, setting
from common.run_record import run_record
from common.whole_file import write_json
from fairseq.data import data_utils
from torch import Tensor

from momentum_fairseq.criterions.nat_refinement_loss import NatRefinementLoss

FORMS = {"whole logits": 1 << 62, "blocks": 0}  # --most-logits of each


def make_update(options: argparse.Namespace, device: torch.device, most_logits: int) -> Callable[[], Tensor]:
    """Forward and backward as a call, which gives the loss a target token; latent-variable steps only, without dropout."""
    dictionary = make_dictionary(options.vocabulary)
    sources, targets = make_sentences(options, options.sentences, dictionary)
    source = data_utils.collate_tokens(sources, dictionary.pad(), left_pad=True).to(device)
    target = data_utils.collate_tokens(targets, dictionary.pad()).to(device)
    tokens = sum(map(len, targets))
    net_input = {"src_tokens": source, "src_lengths": source.ne(dictionary.pad()).sum(1)}
    sample = {"net_input": net_input, "target": target, "step_inputs": [None] * (options.steps - 1), "ntokens": tokens}
    model = make_model(options, dictionary, ROWS["momentum"]).to(device).eval()
    criterion = NatRefinementLoss(None, 1.0, most_logits)

    def update() -> Tensor:
        loss = criterion(model, sample)[0] / tokens
        loss.backward()
        return loss.detach()

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.set_defaults(runs=1)
    parser.add_argument("--steps", type=positive, default=4, help="decoder passes an update (4)")
    parser.add_argument("--sentences", type=positive, default=64, help="sentences a batch (64)")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    options = parser.parse_args()
    device, peaks, losses = choose_device(options), {}, {}
    for form, most_logits in FORMS.items():
        update = make_update(options, device, most_logits)
        peaks[form], losses[form] = max(peak_bytes(update, device) for _ in range(options.runs)), float(update())
        print(f"{form:14}{peaks[form] / 1e6:9.1f} MB   loss {losses[form]:.5f}")
    whole, blocks = losses.values()
    if not abs(whole - blocks) <= 1e-4 * abs(whole):
        sys.exit(f"the two losses differ: {losses}")
    if options.out:
        sizes = {"steps": options.steps, "sentences": options.sentences, "row": "momentum"}
        record = {**run_record(sys.argv), **setting(options, device), **sizes, "peak_bytes": peaks, "loss": losses}
        write_json(options.out, record)


if __name__ == "__main__":
    main()
