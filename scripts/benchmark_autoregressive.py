"""What one more word costs against its position: step-by-step decoding with softmax, linear and momentum attention, in one run.

  python scripts/benchmark_autoregressive.py            # a minute on 2 cores; with --quick some seconds, to see it work
  python scripts/benchmark_autoregressive.py --kinds linear momentum --positions 64 1024 4096 16384
  python scripts/benchmark_autoregressive.py --device cuda --dtype bfloat16

Whole models with random weights take the step that predicts the word after position N, from the state that N − 1 words left
(softmax: its key/value cache), source and projection to the vocabulary included. `greedy` is one hypothesis; `beam` four, which
change places after the step as in fairseq's beam search. Kinds and positions take turns; ratios, to softmax and to the first
position, are medians over the turns of the ratio within a turn. State: bytes kept from one step to the next, for the words and,
apart, for the source. Peak: the most that torch's allocator held during the step beyond that. Writes autoregressive.json and
autoregressive.png into --out.
"""

import argparse
import os
import statistics
import sys
import time
from argparse import Namespace
from functools import partial
from typing import Any

import torch
from common.checked_options import add_output_folder, check_place, positive, positive_seconds
from common.measuring import BASELINE, LEAST_TURNS, MOST_TURNS, keep_freed_memory, peak_bytes, seconds_per_call, summary
from common.nat_benchmarks import ROWS, make_dictionary
from common.panels import write
from common.run_record import hardware, run_record
from plot_autoregressive import plot
from torch import Tensor

from momentum_fairseq.models.causal_decoder import STATE
from momentum_fairseq.models.momentum_transformer import MomentumTransformerConfig, MomentumTransformerModel

SEARCHES = {"greedy": 1, "beam": 4}
REPEATS = 3
SIZES = ("embed_dim", "ffn_dim", "layers", "heads", "vocabulary", "source_words")


def make_model(options: Namespace, kind: str) -> MomentumTransformerModel:
    """Random weights, the same for every kind."""
    torch.manual_seed(1)
    dictionary, longest = make_dictionary(options.vocabulary), max(*options.positions, options.source_words + 1)
    sizes = {name: getattr(options, name) for name in ("embed_dim", "ffn_dim", "layers", "heads")}
    limits = {"max_source_positions": longest, "max_target_positions": longest}
    config = MomentumTransformerConfig(**sizes, **limits, **ROWS[kind], share_all_embeddings=True)
    model = MomentumTransformerModel(config, dictionary, dictionary)
    return model.to(options.device, options.torch_dtype).eval()


class Step:
    """The step at one position, which can be taken again and again: it starts from a copy of the state that leads there."""

    def __init__(self, model: MomentumTransformerModel, options: Namespace, position: int, hypotheses: int) -> None:
        generator = torch.Generator().manual_seed(position)
        words = partial(torch.randint, model.decoder.dictionary.nspecial, options.vocabulary, generator=generator)
        source = words((1, options.source_words + 1))
        source[:, -1] = model.decoder.dictionary.eos()
        self.model, self.rows = model, torch.arange(hypotheses, device=options.device)
        self.tokens = words((hypotheses, position)).to(options.device)
        encoded = model.encoder(source.to(options.device))
        self.encoded = model.encoder.reorder_encoder_out(encoded, torch.zeros_like(self.rows))
        self.state: dict[str, Any] = {}
        for read in (position - 2, position - 1):  # the last word by a step, which may keep its state in another form
            if read > 0:
                model.decoder(self.tokens[:, :read], self.encoded, self.state)

    def __call__(self) -> dict[str, Any]:
        """Log-probabilities of the next word; where there are several hypotheses they change places → the state."""
        state = dict(self.state)
        with torch.inference_mode():
            logits, _ = self.model.decoder(self.tokens, self.encoded, state)
            torch.log_softmax(logits[:, -1].float(), dim=-1)
            if len(self.rows) > 1:
                self.model.decoder.reorder_incremental_state(state, self.rows.roll(1))
        return state

    def state_bytes(self) -> dict[str, int]:
        """Of the state after the step: of the words so far, and of the source."""
        layers = self.model.decoder.get_incremental_state(self(), STATE).layers
        return {
            "state_bytes": sum(bytes_of(layer.words) for layer in layers),
            "source_bytes": sum(bytes_of(layer.source) for layer in layers),
        }


def bytes_of(state: tuple[Any, ...]) -> int:
    return sum(x.untyped_storage().nbytes() for x in state if isinstance(x, Tensor))


def measure(options: Namespace, models: dict[str, MomentumTransformerModel], search: str) -> list[dict[str, Any]]:
    """Time, state and peak of the step of every kind at every position."""
    with torch.inference_mode():
        steps = {
            (position, kind): Step(model, options, position, SEARCHES[search])
            for position in options.positions
            for kind, model in models.items()
        }
    times = take_turns(steps, options)
    rows = []
    for (position, kind), step in steps.items():
        first, baseline = times[options.positions[0], kind], times.get((position, BASELINE))
        own = summary(times[position, kind], baseline)
        own["over_first"] = statistics.median(t / f for t, f in zip(times[position, kind], first, strict=True))
        place = {"search": search, "hypotheses": SEARCHES[search], "position": position, "kind": kind}
        rows.append({**place, **own, **step.state_bytes(), "peak_bytes": peak_bytes(step, options.device)})
    return rows


def take_turns(steps: dict[Any, Step], options: Namespace) -> dict[Any, list[float]]:
    """Milliseconds of each step in each turn; a turn takes all of them, so that a busy machine slows all alike."""
    times: dict[Any, list[float]] = {place: [] for place in steps}
    order = list(steps)
    end = time.perf_counter() + options.seconds
    for turn in range(MOST_TURNS):
        if turn > LEAST_TURNS and time.perf_counter() > end:
            break
        for place in order:
            step = steps[place]
            step()  # a decoder comes from the step before, with the state still at hand
            milliseconds = 1e3 * seconds_per_call(step, REPEATS, options.device)
            if turn:
                times[place].append(milliseconds)
        order.append(order.pop(0))
    return times


def print_table(rows: list[dict[str, Any]], kinds: list[str]) -> None:
    print(f"\n{rows[0]['search']}: ms a step, ratio to softmax, state and peak in MB")
    print(f"{'N':>6}" + "".join(f"{kind:>13} ms  ratio   state    peak" for kind in kinds))
    for position in dict.fromkeys(row["position"] for row in rows):
        own = [row for row in rows if row["position"] == position]
        print(f"{position:6}" + "".join(cells(row) for row in own), flush=True)
    for row in rows[-len(kinds) :]:
        text = f"{row['over_first']:.2f} times the time of word {rows[0]['position']}"
        print(f"{row['kind']:10} word {row['position']} takes {text}")


def cells(row: dict[str, Any]) -> str:
    sizes = "".join(f"{row[name] / 1e6:8.2f}" for name in ("state_bytes", "peak_bytes"))
    return f"{row['median_ms']:16.2f} {row.get('ratio', float('nan')):6.2f}{sizes}"


def parse_arguments(arguments: list[str] | None = None) -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--kinds", nargs="+", choices=ROWS, default=["softmax", "linear", "momentum"], help="(default: the three kinds)")
    add("--positions", nargs="+", type=positive, default=[2**i for i in range(6, 13)], help="N (default: 64 … 4096)")
    add("--searches", nargs="+", choices=SEARCHES, default=list(SEARCHES), help="(default: both)")
    add("--embed-dim", type=positive, default=278, help="width (default: 278, the paper's)")
    add("--ffn-dim", type=positive, default=507, help="width inside the feed-forward (507)")
    add("--layers", type=positive, default=5, help="layers of encoder and decoder (5)")
    add("--heads", type=positive, default=2, help="attention heads (2)")
    add("--vocabulary", type=positive, default=8000, help="words in the dictionary (8000)")
    add("--source-words", type=positive, default=32, help="words of the source (32)")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of weights and activations")
    add("--threads", type=positive, help="CPU threads (default: torch's)")
    add("--seconds", type=positive_seconds, default=20.0, help="time for each table (default: 20)")
    add_output_folder(parser)
    add("--quick", action="store_true", help="two short positions, a tiny model, little time: shows that it works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.positions, options.seconds, options.vocabulary = [16, 128], 0.01, 100
        options.embed_dim, options.ffn_dim, options.layers = 32, 32, 1
    for name in ("kinds", "searches", "positions"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))
    options.positions.sort()
    if options.embed_dim % options.heads:
        parser.error(f"--embed-dim {options.embed_dim} is not a multiple of --heads {options.heads}")
    check_place(parser, options)
    return options


def main() -> None:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = options.device.type == "cpu" and keep_freed_memory()
    machine = hardware(options.device)
    print(f"{machine['device']}, {machine['threads']} threads, {options.dtype}")
    load_before = os.getloadavg()
    models, rows = {kind: make_model(options, kind) for kind in options.kinds}, []
    for search in options.searches:
        found = measure(options, models, search)
        print_table(found, options.kinds)
        rows += found
    record = {
        **run_record(sys.argv),
        "hardware": machine,
        "dtype": options.dtype,
        **{name: getattr(options, name) for name in SIZES},
        "freed_memory_kept": kept,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "steps": rows,
    }
    write(record, options.out / "autoregressive.json", plot)


if __name__ == "__main__":
    main()
