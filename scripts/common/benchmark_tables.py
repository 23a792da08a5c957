"""Markdown of what a benchmark measured: its table, what follows from it, how it was run. `fill_readme.py` puts it in place."""

from collections.abc import Callable
from statistics import median
from textwrap import wrap
from typing import Any

from common.markdown_table import markdown

Record = dict[str, Any]

WIDTH = 130


def describe(record: Record) -> str:
    """The Markdown of a benchmark's JSON.

    Raises:
        ValueError: a record of no benchmark that is known here.
    """
    for made_by, write in WRITERS.items():
        if made_by in record.get("command", ""):
            return "\n".join([*command(record), "", *write(record), "", origin(record)])
    raise ValueError(f"its `command` names none of {', '.join(WRITERS)}")


def command(record: Record) -> list[str]:
    lines = wrap(record["command"], WIDTH - 6, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [*(f"    {line} \\" for line in lines[:-1]), f"    {lines[-1]}"]


def origin(record: Record) -> str:
    """Date, machine, versions, and how busy the machine was."""
    machine, load = record.get("hardware", record), record.get("load_average")
    before = load["before"] if isinstance(load, dict) else load
    busy = f", load average {before[0]:.1f} at the start" if before else ""
    threads = f"{machine['threads']} thread" + "s" * (machine["threads"] > 1)
    versions = f"torch {machine['torch']}, revision {record['git_revision']}"
    return f"{record['date']}, {machine['device']}, {threads}, {versions}{busy}."


def points(facts: list[str]) -> list[str]:
    """A list of sentences, wrapped."""
    return [line for fact in facts for line in wrap(f"- {fact}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)]


def rows(head: list[str], body: list[list[str]]) -> list[str]:
    """The lines of a table."""
    return markdown(head, body).split("\n")


def short(ratio: float) -> str:
    """Two digits that count."""
    return f"{ratio:.3f}" if ratio < 0.0995 else f"{ratio:.2f}" if ratio < 9.95 else f"{ratio:.0f}"


def attention(record: Record) -> list[str]:
    """Time over softmax's without a mask; extremes with and without; memory."""
    times = [row for row in record["times"] if row["kind"] in ("linear", "momentum")]
    lengths = sorted({row["length"] for row in times})
    found = {(row["kind"], row["pass"], row["dim"], row["length"]): row for row in times if row["mask"] == "none"}
    lines = list(dict.fromkeys(key[:3] for key in found))
    body = [
        [f"{kind}, {pass_}, D = {dim}", *(short(found[kind, pass_, dim, n]["ratio"]) for n in lengths)]
        for kind, pass_, dim in sorted(lines)
    ]
    facts = []
    for kind, mask in in_order(times, "kind", "mask"):
        facts.append(extremes([row for row in times if (row["kind"], row["mask"]) == (kind, mask)], kind, mask))
    fits = [row["r_squared_against_length"] for row in record["memory"] if row["kind"] == "momentum"]
    facts.append(spread(times))
    facts.append(f"Momentum's peak memory against N is a straight line with R² of {min(fits):.5f} or more.")
    return [*rows(["time / softmax's, N =", *map(str, lengths)], body), "", *points(facts)]


def spread(measured: list[Record]) -> str:
    """How far the turns of a cell lie apart."""
    share = 100 * median(row["iqr_ms"] / row["median_ms"] for row in measured)
    return f"The middle half of the turns spans {share:.0f} % of the median time (median over all cells)."


def in_order(entries: list[Record], *names: str) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(entry[name] for name in names) for entry in entries))


def extremes(own: list[Record], kind: str, mask: str) -> str:
    slow, fast = max(own, key=lambda row: row["ratio"]), min(own, key=lambda row: row["ratio"])
    # No-break spaces: a line shouldn't end on an equals sign.
    most, least = (f"N\u00a0=\u00a0{row['length']}, D\u00a0=\u00a0{row['dim']}, {row['pass']}" for row in (slow, fast))
    where = "without a mask" if mask == "none" else "with a padding mask"
    worst, best = f"{slow['ratio']:.3f} times softmax's time ({most})", f"{1 / fast['ratio']:.0f} times as fast ({least})"
    return f"{kind.capitalize()} {where}: at most {worst}, at best {best}."


def turns(row: Record) -> str:
    """How far a row's turns lie apart."""
    seconds = row["seconds_of_each_turn"]
    return f"{min(seconds):.2f}–{max(seconds):.2f}"


def training(record: Record) -> list[str]:
    sizes = f"{record['embed_dim']}/{record['ffn_dim']}/{record['layers']}/{record['heads']}"
    head = [f"{sizes}, {record['vocabulary']:,} words", "parameters", "target tokens/s", "× fairseq's", "seconds of an update"]
    body = []
    for row in record["rows"]:
        speed, ratio = f"{row['target_tokens_per_second']:,.0f}", f"{row['speed_ratio']:.2f}"
        body.append([row["row"], f"{row['parameters'] / 1e6:.1f} M", speed, ratio, turns(row)])
    return rows(head, body)


def decoding(record: Record) -> list[str]:
    batches = sorted({row["batch"] for row in record["rows"]})
    found = {(row["row"], row["batch"]): row for row in record["rows"]}
    sizes = f"{record['embed_dim']}/{record['ffn_dim']}/{record['layers']}/{record['heads']}"
    head = [f"{sizes}, {record['vocabulary']:,} words, {record['steps']} passes"]
    for batch in batches:
        head += [f"batch {batch}: sub-words/s", "× softmax", "× fairseq", "seconds"]
    body = []
    for name in dict.fromkeys(row["row"] for row in record["rows"]):
        body.append([name])
        for row in (found[name, batch] for batch in batches):
            ratios = (f"{row[ratio]:.2f}" for ratio in ("speed_ratio", "speed_ratio_to_fairseq"))
            body[-1] += [f"{row['subwords_per_second']:.0f}", *ratios, turns(row)]
    projections = [row for row in record["rows"] if "projection_share" in row]
    shares = ", ".join(f"{100 * row['projection_share']:.0f} % at batch {row['batch']}" for row in projections)
    facts = [f"Projecting to the vocabulary, with the argmax, takes of momentum's time {shares}."] if projections else []
    return [*rows(head, body), "", *points(facts)]


def autoregressive(record: Record) -> list[str]:
    steps = record["steps"]
    kinds = list(dict.fromkeys(row["kind"] for row in steps))
    found = {(row["search"], row["position"], row["kind"]): row for row in steps}
    body = []
    for search, n in in_order(steps, "search", "position"):
        own = [found[search, n, kind] for kind in kinds]
        body.append([f"{search}, word {n:,}", *(f"{row['median_ms']:.1f} ms, {row['state_bytes'] / 1e6:.2f} MB" for row in own)])
    positions = [row["position"] for row in steps]
    first, last, facts = min(positions), max(positions), []
    for search in dict.fromkeys(row["search"] for row in steps):
        growth = ", ".join(f"{kind} {found[search, last, kind]['over_first']:.2f}" for kind in kinds)
        facts.append(f"{search.capitalize()}: word {last:,}'s time over word {first}'s is {growth}.")
    facts.append(spread(steps))
    return [*rows(["time of a step, state", *kinds], body), "", *points(facts)]


def kinds(record: Record) -> list[str]:
    """Time over linear attention's of each part, and over momentum's of softmax."""
    lengths = sorted({row["length"] for row in record["measured"]})
    milliseconds = {(row["part"], row["kind"], row["length"]): row["median_ms"] for row in record["measured"]}
    text: list[str] = []
    facts: list[str] = []
    for part in dict.fromkeys(row["part"] for row in record["measured"]):
        own = [row["kind"] for row in record["summary"] if row["part"] == part]
        cell = {key: short(ms / milliseconds[part, "linear", key[2]]) for key, ms in milliseconds.items() if key[0] == part}
        body = [[kind, *(cell.get((part, kind, n), "") for n in lengths)] for kind in own]
        text += [*rows([f"{part}: time / linear's, N =", *map(str, lengths)], body), ""]
        faster = [f"{milliseconds[part, 'softmax', n] / milliseconds[part, 'momentum', n]:.1f} at {n}" for n in lengths]
        facts.append(f"{part.capitalize()}: momentum's speed over softmax's is {', '.join(faster)}.")
    facts.append(spread(record["measured"]))
    fit = min(row["memory_r_squared"] for row in record["summary"])
    return [*text, *points([*facts, f"Peak memory against N is a straight line for all, R² of {fit:.6f} or more."])]


def kernels(record: Record) -> list[str]:
    """Time over softmax's of each shape; momentum's over that of linear attention and of each peer; what we aimed at."""
    times = record["times"]
    places = in_order(times, "batch", "length", "heads", "dim")
    found = {(row["kind"], row["pass"], *(row[name] for name in ("batch", "length", "heads", "dim"))): row for row in times}
    text: list[str] = []
    for pass_, dim in in_order(times, "pass", "dim"):
        columns = [place for place in places if place[-1] == dim and ("softmax", pass_, *place) in found]
        own = [row["kind"] for row in times if (row["pass"], row["dim"]) == (pass_, dim) and row["kind"] != "softmax"]
        cells = {(kind, place): found.get((kind, pass_, *place)) for kind in own for place in columns}
        body = [
            [kind, *("" if (row := cells[kind, place]) is None else short(row["ratio"]) for place in columns)]
            for kind in dict.fromkeys(own)
        ]
        head = [f"{pass_}, D = {dim}: time / softmax's, N =", *(str(length) for _, length, _, _ in columns)]
        text += [*rows(head, body), ""]
    others = [kind for (kind,) in in_order(times, "kind") if kind not in ("softmax", "momentum")]
    facts = [fact for kind in others if (fact := over(times, found, kind))]
    facts += [spread(times)] if times else []
    for row in times:
        if row.get("goal_ms"):
            shape = f"({row['batch']}, {row['length']}, {row['heads']}, {row['dim']})"
            floor = f"memory alone {row['floor_ms']:.3f}"
            facts.append(f"Momentum, {shape}, {row['pass']}: {row['median_ms']:.3f} ms, aim {row['goal_ms']}, {floor}.")
    facts += [f"Not compared: {name} ({reason})." for name, reason in record["not_compared"].items()]
    facts += [f"Failed: {name} ({reason})." for name, reason in record["failed"].items()]
    return [*text, *points(facts)]


def over(times: list[Record], found: dict[tuple[Any, ...], Record], kind: str) -> str:
    """Momentum's time over that of a kind, of each pass; nothing where no shape has both."""
    parts = []
    for (pass_,) in in_order(times, "pass"):
        ratios = [
            found["momentum", *key[1:]]["median_ms"] / row["median_ms"]
            for key, row in found.items()
            if key[:2] == (kind, pass_) and ("momentum", *key[1:]) in found
        ]
        if ratios:
            parts.append(f"{pass_} {min(ratios):.2f} to {max(ratios):.2f}")
    return f"Momentum's time over that of {kind}: {', '.join(parts)}." if parts else ""


def drawing(record: Record) -> list[str]:
    found = []
    for result in record["results"]:
        for row in result["rows"]:
            entry = [f"{row['row']}, batch {row['batch']}", f"{row['images_per_second']:.4g}"]
            entry += [f"{row['over_linear']:.2f}" if row["over_linear"] else ""]
            entry += [f"{row['milliseconds'][place]:,.1f}" for place in (0, -1)]
            found.append([*entry, *(f"{row['state_bytes'][place] / 1e3:,.1f}" for place in (0, -1))])
    result = record["results"][0]
    first, last = result["places"][0], result["places"][-1]
    sizes = f"{result['sizes']['layers']} layers, {result['sizes']['embed_dim']} wide"
    head = [f"{result['images']}, {sizes}", "images/s", "× linear"]
    head += [f"ms a value, at {first}", f"at {last}", f"state of an image in kB, at {first}", f"at {last}"]
    how = f"extrapolated from {result['values']} values at each of {len(result['places'])} places in the image"
    return [*rows(head, found), "", f"- Images a second are {how}."]


def loss_memory(record: Record) -> list[str]:
    peaks, losses = record["peak_bytes"], record["loss"]
    sizes = f"{record['embed_dim']}/{record['ffn_dim']}/{record['layers']}/{record['heads']}"
    batch = f"{record['sentences']} sentences, {record['steps']} passes"
    head = [f"{sizes}, {record['vocabulary']:,} words, {batch}", "peak MB", "loss"]
    return rows(head, [[name, f"{peaks[name] / 1e6:,.0f}", f"{losses[name]:.4f}"] for name in peaks])


def fuzz(record: Record) -> list[str]:
    body = [
        [name, f"{form['cases']:,}", f"{form['largest']:.1e}", f"{form['limit']:.0e}"] for name, form in record["forms"].items()
    ]
    head = [f"{record['cases']:,} random cases, {record['failures']} failures", "cases", "largest error", "limit"]
    return rows(head, body)


WRITERS: dict[str, Callable[[Record], list[str]]] = {
    "benchmark_attention.py": attention,
    "benchmark_training.py": training,
    "benchmark_decoding.py": decoding,
    "benchmark_loss_memory.py": loss_memory,
    "benchmark_autoregressive.py": autoregressive,
    "benchmark_kinds.py": kinds,
    "benchmark_kernels.py": kernels,
    "generate_images.py": drawing,
    "fuzz_attention.py": fuzz,
}
