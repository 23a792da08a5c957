"""What the benchmarks of whole models share: models and batches of random weights and words, and calls that take turns."""

import argparse
import dataclasses
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models.nat.iterative_nonautoregressive_transformer import IterNATransformerModel, inat_base_architecture
from torch import Tensor, nn

from common.measuring import keep_freed_memory, synchronise
from common.run_record import hardware
from momentum_fairseq.models.momentum_nat import MomentumNatConfig, MomentumNatModel

ROWS = {
    "softmax": {"attention": "softmax"},
    "linear": {"attention": "linear"},
    "momentum": {"attention": "momentum"},
    "connection": {"attention": "momentum", "connection": "momentum"},
    "adaptive": {"attention": "momentum", "connection": "adaptive"},
}
NAT_ROWS = {**ROWS, "momentum, taylor": {"attention": "momentum", "attention_feature_map": "taylor"}}
FAIRSEQ = "fairseq"


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The size of the models, the device, and how often to measure."""
    parser.add_argument("--embed-dim", type=int, default=278, help="width (default: 278, the paper's)")
    parser.add_argument("--ffn-dim", type=int, default=507, help="width inside the feed-forward (507)")
    parser.add_argument("--layers", type=int, default=5, help="layers of the encoder and of each decoder (5)")
    parser.add_argument("--heads", type=int, default=2, help="attention heads (2)")
    parser.add_argument("--vocabulary", type=int, default=8000, help="words in the dictionary (8000)")
    parser.add_argument("--words", type=int, nargs=2, default=[8, 24], metavar=("LEAST", "MOST"), help="words a sentence")
    parser.add_argument("--runs", type=int, default=5, help="timed turns; the medians count (5)")
    parser.add_argument("--cpu", action="store_true", help="don't use a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")


def choose_device(options: argparse.Namespace) -> torch.device:
    """The device, on a CPU with its threads set and its freed memory kept, as the scripts that train and translate have it."""
    if options.threads:
        torch.set_num_threads(options.threads)
    if torch.cuda.is_available() and not options.cpu:
        return torch.device("cuda")
    keep_freed_memory()
    return torch.device("cpu")


def make_dictionary(words: int) -> Dictionary:
    """A dictionary of `words` entries, specials included."""
    dictionary = Dictionary()
    for i in range(words - len(dictionary)):
        dictionary.add_symbol(f"word{i}")
    return dictionary


def make_model(options: argparse.Namespace, dictionary: Dictionary, settings: dict[str, Any]) -> MomentumNatModel:
    """Random weights, the same for every kind."""
    torch.manual_seed(1)
    values = {field.name: field.default for field in dataclasses.fields(MomentumNatConfig)}
    values |= {"embed_dim": options.embed_dim, "ffn_dim": options.ffn_dim, "layers": options.layers, "heads": options.heads}
    values |= {"max_source_positions": 1024, "max_target_positions": 1024, "share_all_embeddings": True, **settings}
    return MomentumNatModel(Namespace(**values), dictionary, dictionary)


def fairseq_model(options: argparse.Namespace, dictionary: Dictionary, train_steps: int = 4) -> nn.Module:
    """fairseq's iterative model with the same widths, layers and heads."""
    torch.manual_seed(1)
    args = Namespace(train_step=train_steps, dae_ratio=0.5, share_all_embeddings=True, dropout=0.1, label_smoothing=0.0)
    for part in ("encoder", "decoder"):
        setattr(args, f"{part}_embed_dim", options.embed_dim)
        setattr(args, f"{part}_ffn_embed_dim", options.ffn_dim)
        setattr(args, f"{part}_layers", options.layers)
        setattr(args, f"{part}_attention_heads", options.heads)
    args.max_source_positions = args.max_target_positions = 1024
    inat_base_architecture(args)
    task = Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return IterNATransformerModel.build_model(args, task)


def make_sentences(options: argparse.Namespace, sentences: int, dictionary: Dictionary) -> tuple[list[Tensor], list[Tensor]]:
    """Sources with EOS and targets without, of random words, sorted by length as fairseq batches them."""
    generator = torch.Generator().manual_seed(0)
    least, most = options.words
    lengths = torch.randint(least, most + 1, (sentences,), generator=generator).sort().values.tolist()

    def words(length: int) -> Tensor:
        return torch.randint(dictionary.nspecial, len(dictionary), (length,), generator=generator)

    eos = torch.tensor([dictionary.eos()])
    return [torch.cat([words(length), eos]) for length in lengths], [words(length) for length in lengths]


def take_turns(calls: dict[str, Callable[[], Any]], turns: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every call in every turn, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            synchronise(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float], baseline: list[float], **amounts: int) -> dict[str, Any]:
    """Each amount a second in the median turn, and how many times the baseline's speed, the median over the turns."""
    median = statistics.median(seconds)
    return {
        **{f"{name}_per_second": round(amount / median, 1) for name, amount in amounts.items()},
        "speed_ratio": round(statistics.median(b / s for b, s in zip(baseline, seconds, strict=True)), 3),
        "seconds_of_each_turn": [round(s, 4) for s in seconds],
    }


def setting(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Sizes and hardware, for the JSON."""
    sizes = {name: getattr(options, name) for name in ("embed_dim", "ffn_dim", "layers", "heads", "vocabulary", "words")}
    return {**hardware(device), **sizes}
