"""Plot what benchmark_attention.py measured: python scripts/plot_attention.py attention.json attention.png"""

from pathlib import Path
from typing import Any

from common.panels import logarithmic, main, pyplot, save, setting


def plot(record: dict[str, Any], path: Path) -> None:
    """Time against N and below it peak memory against N; a column for each D, a row for each pass. Without a mask if run so.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    times = [row for row in record["times"] if row["mask"] == record["times"][0]["mask"]]
    passes, dims, kinds = (list(dict.fromkeys(row[key] for row in times)) for key in ("pass", "dim", "kind"))
    size = (4 * len(dims), 5.5 * len(passes))
    figure, panels = pyplot().subplots(2 * len(passes), len(dims), figsize=size, squeeze=False, layout="constrained")
    for i, pass_ in enumerate(passes):
        for j, dim in enumerate(dims):
            upper, lower = panels[i][j], panels[len(passes) + i][j]
            for kind in kinds:
                place = {"pass": pass_, "dim": dim, "kind": kind}
                own = [row for row in times if place.items() <= row.items()]
                upper.plot([row["length"] for row in own], [row["median_ms"] for row in own], "o-", ms=3, label=kind)
                (row,) = (row for row in record["memory"] if place.items() <= row.items())
                lower.plot(row["lengths"], [peak / 1e6 for peak in row["peak_bytes"]], "o-", ms=3, label=kind)
            upper.set(title=f"{pass_}, D = {dim}", ylabel=f"ms, B·N = {record['tokens']}")
            lower.set(title=f"{pass_}, D = {dim}", ylabel="peak MB, B = 1")
            for panel in (upper, lower):
                logarithmic(panel, xlabel="N")
    panels[0][0].legend()
    figure.suptitle(f"{setting(record)}, H = {record['heads']}")
    save(figure, path)


if __name__ == "__main__":
    main(plot, __doc__)
