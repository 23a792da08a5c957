"""Plot what benchmark_autoregressive.py measured: python scripts/plot_autoregressive.py autoregressive.json autoregressive.png"""

from pathlib import Path
from typing import Any

from common.panels import logarithmic, main, pyplot, save, setting

COLUMNS = {"median_ms": ("ms a step", 1.0), "state_bytes": ("state, MB", 1e6), "peak_bytes": ("peak of a step, MB", 1e6)}


def plot(record: dict[str, Any], path: Path) -> None:
    """Time, state and peak memory of a step against its position; a row for each search.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    searches, kinds = (list(dict.fromkeys(row[key] for row in record["steps"])) for key in ("search", "kind"))
    size = (4 * len(COLUMNS), 3 * len(searches))
    figure, panels = pyplot().subplots(len(searches), len(COLUMNS), figsize=size, squeeze=False, layout="constrained")
    for line, search in zip(panels, searches, strict=True):
        for panel, (column, (label, unit)) in zip(line, COLUMNS.items(), strict=True):
            for kind in kinds:
                own = [row for row in record["steps"] if (row["search"], row["kind"]) == (search, kind)]
                values = [row[column] / unit for row in own]
                panel.plot([row["position"] for row in own], values, "o-", ms=3, label=kind)
            logarithmic(panel, xlabel="position", ylabel=label, title=search)
    panels[0][1].legend()
    model = f"{record['embed_dim']}/{record['ffn_dim']}/{record['layers']}/{record['heads']}"
    figure.suptitle(f"{model}, {setting(record)}")
    save(figure, path)


if __name__ == "__main__":
    main(plot, __doc__)
