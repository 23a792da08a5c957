"""Tokens a second of refinement decoding: all attention kinds and connections side by side, at batch 1 and batched.

  python scripts/benchmark_decoding.py --out examples/benchmarks/results/decoding.json

Random weights, lengths given, all steps run: every row does the same work. `fairseq` is fairseq's own
iterative_nonautoregressive_transformer of the same size through its own generator, which has one decoder, no positional
attention, no gates, and BOS and EOS in its targets. `momentum, unfused` projects to [B,N,V] and takes the log-softmax at each
step, as fairseq's generator does, packs no weights, and has a product for every projection; its tokens must be the same. The
share of the projection with argmax in the time of `momentum` is measured in a run of its own. Two more rows stop a sentence when
its output repeats: in `adaptive steps` finished sentences leave the batch, in `none leaves` they are computed on until the last
one is finished; same tokens.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common.checked_options import output_file
from common.measuring import synchronise
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
from fairseq.data import Dictionary, data_utils
from fairseq.iterative_refinement_generator import IterativeRefinementGenerator
from torch import Tensor, nn

from momentum_fairseq.models.momentum_nat import MomentumNatModel
from momentum_fairseq.modules.packed_linear import Packing
from momentum_fairseq.refinement_batches import Batch
from momentum_fairseq.refinement_generator import RefinementGenerator

UNFUSED = "momentum, unfused"
ADAPTIVE = "momentum, adaptive steps"
NONE_LEAVES = "momentum, adaptive steps, none leaves"
SAME_TOKENS = {UNFUSED: "momentum", NONE_LEAVES: ADAPTIVE}


def whole_logits(model: MomentumNatModel, hidden: Tensor, padding_mask: Tensor) -> Tensor:
    """The plain form of `best_words`: every position, every word, normalised."""
    scores = torch.log_softmax(model.output_projection(hidden), dim=-1)  # [B,N,V]
    words = scores[..., model.first_word :].argmax(-1) + model.first_word
    return words.masked_fill(padding_mask, model.padding_idx)


def unfuse(model: MomentumNatModel) -> MomentumNatModel:
    """The same model without what spares decoding memory and products."""
    model.best_words = lambda *arguments: whole_logits(model, *arguments)
    for module in model.modules():
        if isinstance(module, Packing):
            module.pack = lambda: None
    for layer in (*model.decoder1.layers, *model.decoder2.layers):
        remember = layer.encoder_attn.remember
        layer.encoder_attn.remember = lambda source, mask, *, many_reads, remember=remember: remember(source, mask)
    return model


class FairseqGenerator:
    """fairseq's generator with the reference's lengths, to which it adds BOS and EOS; its passes are `max_iter` + 1."""

    def __init__(self, dictionary: Dictionary, model: nn.Module, steps: int) -> None:
        self.padding = dictionary.pad()
        self.generator = IterativeRefinementGenerator(dictionary, max_iter=steps - 1, adaptive=False)
        model.decoder.forward_length_prediction = lambda *_, **__: self.lengths.clone()

    def generate(self, models: list[nn.Module], sample: dict[str, Any]) -> list[list[dict[str, Any]]]:
        self.lengths = sample["target"].ne(self.padding).sum(1) + 2
        return self.generator.generate(models, sample)


class NoneLeavesGenerator(RefinementGenerator):
    """Adaptive decoding of a batch that stays whole until its last sentence is finished."""

    def _refine(self, model: MomentumNatModel, batch: Batch, records: list[dict[str, Any]], fewest: int) -> None:
        going = torch.ones_like(batch.rows, dtype=torch.bool)
        while True:
            done = (self._finished(batch) & going).nonzero().squeeze(1)
            if len(done):
                self._record(model, batch.select(done), records)
                going[done] = False
            if not bool(going.any()):
                return
            state = model.refine(batch.state)
            same_for = torch.where(self._unchanged(batch.state.tokens, state.tokens), batch.same_for + 1, 0)
            batch = Batch(batch.rows, state, batch.steps + 1, same_for)


class Stopwatch:
    """Wraps a function and adds up its seconds."""

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self.function, self.device, self.seconds = function, device, 0.0

    def __call__(self, *arguments: Any) -> Any:
        synchronise(self.device)
        start = time.perf_counter()
        result = self.function(*arguments)
        synchronise(self.device)
        self.seconds += time.perf_counter() - start
        return result


def make_models(options: argparse.Namespace, dictionary: Dictionary, device: torch.device) -> dict[str, nn.Module]:
    """The model of every row; rows that stop a sentence early have momentum's."""
    models: dict[str, nn.Module] = {name: make_model(options, dictionary, settings) for name, settings in NAT_ROWS.items()}
    unfused = unfuse(make_model(options, dictionary, NAT_ROWS["momentum"]))
    models |= {FAIRSEQ: fairseq_model(options, dictionary), UNFUSED: unfused}
    models = {name: model.to(device).eval() for name, model in models.items()}
    return {**models, ADAPTIVE: models["momentum"], NONE_LEAVES: models["momentum"]}


def make_generators(options: argparse.Namespace, dictionary: Dictionary, models: dict[str, nn.Module]) -> dict[str, Any]:
    """The generator of every row."""
    steps = {"max_steps": options.steps, "oracle_length": True}
    return {
        **dict.fromkeys(models, RefinementGenerator(dictionary, **steps, adaptive=False)),
        FAIRSEQ: FairseqGenerator(dictionary, models[FAIRSEQ], options.steps),
        ADAPTIVE: RefinementGenerator(dictionary, **steps),
        NONE_LEAVES: NoneLeavesGenerator(dictionary, **steps),
    }


def make_sample(sources: list[Tensor], targets: list[Tensor], dictionary: Dictionary, device: torch.device) -> dict[str, Any]:
    """A batch as the generators take it."""
    source = data_utils.collate_tokens(sources, dictionary.pad(), left_pad=True).to(device)
    target = data_utils.collate_tokens(targets, dictionary.pad()).to(device)
    return {"net_input": {"src_tokens": source, "src_lengths": source.ne(dictionary.pad()).sum(1)}, "target": target}


def measure(
    options: argparse.Namespace, batch: int, dictionary: Dictionary, models: dict[str, nn.Module], device: torch.device
) -> list[dict[str, Any]]:
    """Speeds of all rows on the same sentences, at least eight; of `SAME_TOKENS` also how many sentences differ."""
    generators = make_generators(options, dictionary, models)
    sources, targets = make_sentences(options, max(batch, 8), dictionary)
    starts = range(0, len(sources), batch)
    samples = [make_sample(sources[i : i + batch], targets[i : i + batch], dictionary, device) for i in starts]

    def translate(name: str) -> list[list[int]]:
        hypotheses = [h for sample in samples for h in generators[name].generate([models[name]], sample)]
        return [hypothesis[0]["tokens"].tolist() for hypothesis in hypotheses]

    others = {name: different(translate(name), translate(same)) for name, same in SAME_TOKENS.items()}
    seconds = take_turns({name: partial(translate, name) for name in models}, options.runs, device)
    amounts = {"subwords": sum(map(len, targets)), "sentences": len(sources)}
    rows = {}
    for name, times in seconds.items():
        rows[name] = {"batch": batch, "row": name, **summary(times, seconds["softmax"], **amounts)}
        rows[name]["speed_ratio_to_fairseq"] = summary(times, seconds[FAIRSEQ])["speed_ratio"]
    for name, sentences in others.items():
        rows[name]["sentences_with_other_tokens"] = sentences
    rows["momentum"]["projection_share"] = projection_share(models["momentum"], partial(translate, "momentum"), device)
    return list(rows.values())


def different(translations: list[list[int]], others: list[list[int]]) -> int:
    """How many sentences have other tokens."""
    return sum(mine != other for mine, other in zip(translations, others, strict=True))


def projection_share(model: MomentumNatModel, translate: Callable[[], Any], device: torch.device) -> float:
    """Share of a translation's time that `best_words` takes."""
    watch = Stopwatch(model.best_words, device)
    model.best_words = watch
    start = time.perf_counter()
    translate()
    share = watch.seconds / (time.perf_counter() - start)
    del model.best_words
    return round(share, 3)


def print_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        speed = f"{row['subwords_per_second']:10.1f} sub-words/s  {row['speed_ratio']:.3f} × softmax"
        print(f"batch {row['batch']:3} {row['row']:38} {speed}  {row['speed_ratio_to_fairseq']:.3f} × fairseq")
    for row in rows:
        if "projection_share" in row:
            share = f"{row['projection_share']:.0%} of {row['row']}'s time"
            print(f"batch {row['batch']:3} projection and argmax: {share}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--steps", type=int, default=10, help="decoder passes (10)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="sentences a batch (1 64)")
    parser.add_argument("--out", type=output_file, help="JSON file to write")
    options = parser.parse_args()
    device, dictionary = choose_device(options), make_dictionary(options.vocabulary)
    models, rows = make_models(options, dictionary, device), []
    for batch in options.batches:
        found = measure(options, batch, dictionary, models, device)
        print_rows(found)
        rows += found
    if options.out:
        write_json(options.out, {**run_record(sys.argv), **setting(options, device), "steps": options.steps, "rows": rows})
    # Last, so that the times aren't lost.
    faults = [
        f"batch {row['batch']}: {row['sentences_with_other_tokens']} sentences have other tokens in {row['row']} than in"
        f" {SAME_TOKENS[row['row']]}"
        for row in rows
        if row.get("sentences_with_other_tokens")
    ]
    if faults:
        raise SystemExit("\n".join(["error: rows that should differ in speed alone:", *faults]))


if __name__ == "__main__":
    main()
