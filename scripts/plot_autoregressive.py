"""Plot what benchmark_autoregressive.py measured: python scripts/plot_autoregressive.py autoregressive.json autoregressive.png"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

COLUMNS = {"median_ms": ("ms a step", 1.0), "state_bytes": ("state, MB", 1e6), "peak_bytes": ("peak of a step, MB", 1e6)}


def plot(record: dict[str, Any], path: Path) -> None:
    """Time, state and peak memory of a step against its position; a row for each search.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq sets all loggers to DEBUG
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    searches, kinds = (list(dict.fromkeys(row[key] for row in record["steps"])) for key in ("search", "kind"))
    size = (4 * len(COLUMNS), 3 * len(searches))
    figure, panels = plt.subplots(len(searches), len(COLUMNS), figsize=size, squeeze=False, layout="constrained")
    for line, search in zip(panels, searches, strict=True):
        for panel, (column, (label, unit)) in zip(line, COLUMNS.items(), strict=True):
            for kind in kinds:
                own = [row for row in record["steps"] if (row["search"], row["kind"]) == (search, kind)]
                values = [row[column] / unit for row in own]
                panel.plot([row["position"] for row in own], values, "o-", ms=3, label=kind)
            panel.set(xscale="log", yscale="log", xlabel="position", ylabel=label, title=search)
            panel.grid(alpha=0.3)
    panels[0][1].legend()
    hardware = record["hardware"]
    model = f"{record['embed_dim']}/{record['ffn_dim']}/{record['layers']}/{record['heads']}"
    figure.suptitle(f"{model}, {hardware['device']}, {hardware['threads']} threads, {record['dtype']}")
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=110, format="png")
    part.replace(path)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: {__doc__}")
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
