"""What came of a study: means, spreads and paired intervals, as JSON, Markdown and a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

CONFIDENCE = 0.95
VALUES = ("AP", "AP_0.5", "AP_vt", "AP_t")


def paired(values: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Mean of the differences of runs with the same seed, and its interval of 95 % by Student's t.

    Raises:
        ValueError: no pairs, or one.
    """
    if len(values) != len(baseline) or len(values) < 2:
        raise ValueError(
            f"paired: expected two or more values of each, got {len(values)} and {len(baseline)}"
        )
    differences = [one - other for one, other in zip(values, baseline)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * error
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summary(results: list[dict[str, Any]], costs: dict[str, dict], baseline: str) -> dict[str, Any]:
    """By variant: each value's runs in percent, mean, spread and difference to the baseline; costs."""
    table: dict[str, Any] = {}
    for name in costs:
        runs = sorted(
            (one for one in results if one["variant"] == name), key=lambda one: one["seed"]
        )
        row = {**costs[name]}
        for key in ("training_step_s", "test_s_per_image"):
            row[key] = statistics.median(one[key] for one in runs)
        row["seeds"] = [one["seed"] for one in runs]
        for value in VALUES:
            found = [100 * one["metric"][f"aitod/{value}"] for one in runs]
            row[value] = {
                "runs": found,
                "mean": statistics.fmean(found),
                "spread": statistics.stdev(found),
            }
        table[name] = row
    for row in table.values():
        for value in VALUES:
            row[value]["difference"] = paired(row[value]["runs"], table[baseline][value]["runs"])
    return table


def markdown(table: dict[str, Any], settings: dict[str, Any], baseline: str) -> str:
    """A table of the values and one of the costs."""
    seeds = len(table[baseline]["seeds"])
    lines = [
        "# Does it help?",
        "",
        f"{settings['data']}, {settings['epochs']} epochs, {seeds} seeds each. Values in percent: mean and standard "
        f"deviation over the seeds; below, the mean difference to {baseline} with the same seed and its interval of "
        "95 % by Student's t. An interval that holds 0 shows no effect.",
        "",
        f"| variant | {' | '.join(VALUES)} |",
        "|---|" + "---|" * len(VALUES),
    ]
    for name, row in table.items():
        cells = [f"{row[value]['mean']:.1f} ± {row[value]['spread']:.1f}" for value in VALUES]
        if name != baseline:
            cells = [
                f"{cell}<br>{d['mean']:+.1f} ({d['low']:+.1f} to {d['high']:+.1f})"
                for cell, d in zip(cells, (row[value]["difference"] for value in VALUES))
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| variant | parameters | GFLOPs up to the RPN, 256 x 256 | training step | test of an image |",
        "|---|---|---|---|---|",
    ]
    for name, row in table.items():
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} M | {row['flops'] / 1e9:.2f} | "
            f"{1000 * row['training_step_s']:.0f} ms | {1000 * row['test_s_per_image']:.0f} ms |"
        )
    return "\n".join([*lines, "", f"{settings['date']}, {settings['machine']}", ""])


def draw(table: dict[str, Any], path: Path, baseline: str) -> None:
    """A dot for each run, and the interval of the mean difference to the baseline."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 0.5 * len(table) + 1.5), sharey=True)
    for place, row in enumerate(table.values()):
        found, difference = row["AP"]["runs"], row["AP"]["difference"]
        left.plot(found, [place] * len(found), "o", alpha=0.6, color="tab:blue")
        left.plot([row["AP"]["mean"]], [place], "|", markersize=18, color="black")
        ends = [[difference["mean"] - difference["low"]], [difference["high"] - difference["mean"]]]
        right.errorbar([difference["mean"]], [place], xerr=ends, fmt="o", capsize=4, color="black")
    left.set_yticks(range(len(table)), list(table))
    left.invert_yaxis()
    left.set_xlabel("AP in percent, one dot for each seed")
    right.axvline(0, color="grey", linewidth=1)
    right.set_xlabel(f"AP over {baseline} with the same seed, interval of 95 %")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def write(
    folder: Path,
    results: list[dict[str, Any]],
    costs: dict[str, dict],
    settings: dict[str, Any],
    baseline: str,
) -> str:
    """``study.json``, ``study.md`` and ``study.png`` in a folder; returns the Markdown."""
    table = summary(results, costs, baseline)
    document = {"settings": settings, "summary": table, "runs": results}
    (folder / "study.json").write_text(json.dumps(document, indent=1) + "\n")
    text = markdown(table, settings, baseline)
    (folder / "study.md").write_text(text)
    draw(table, folder / "study.png", baseline)
    return text


def duration(seconds: Sequence[float], runs: int) -> str:
    """How long so many runs take if they are as those before."""
    if not seconds:
        return "?"
    minutes = round(statistics.fmean(seconds) * runs / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
