"""Plot what benchmark_kinds.py measured: python scripts/plot_kinds.py kinds.json kinds.png"""

from pathlib import Path
from typing import Any

from common.panels import logarithmic, main, pyplot, save, setting

COLUMNS = {"steps_per_second": ("steps/s", 1.0), "peak_bytes": ("peak memory, MB", 1e6)}


def plot(record: dict[str, Any], path: Path) -> None:
    """Steps a second and peak memory against N; a row for each part.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    parts, kinds = (list(dict.fromkeys(row[key] for row in record["measured"])) for key in ("part", "kind"))
    size = (5 * len(COLUMNS), 4 * len(parts))
    figure, panels = pyplot().subplots(len(parts), len(COLUMNS), figsize=size, squeeze=False, layout="constrained")
    for line, part in zip(panels, parts, strict=True):
        for panel, (column, (label, unit)) in zip(line, COLUMNS.items(), strict=True):
            for i, kind in enumerate(kinds):
                own = [row for row in record["measured"] if (row["part"], row["kind"]) == (part, kind)]
                values = [row[column] / unit for row in own]
                panel.plot([row["length"] for row in own], values, "osv^D"[i % 5] + "-", ms=4, label=kind)
            logarithmic(panel, xlabel="N", ylabel=label, title=f"{part}, forward+backward")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.suptitle(f"{setting(record)}, width {record['embed_dim']}, {record['heads']} heads, one sequence")
    save(figure, path)


if __name__ == "__main__":
    main(plot, __doc__)
