"""The figures as bars: one group for each scenario, one bar for each broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.scenarios import BY_NAME

WIDTH, COLUMNS, BAR, GAP, HEAD = 1120, 2, 16, 18, 24
COLOURS = {
    "mqttcluster": "#1f6feb",
    "baseline": "#79a7e8",
    "mosquitto": "#8b6f47",
    "aedes": "#6e9f58",
    "nats": "#8d6cab",
    "amqtt": "#b08a3c",
}
_NAME, _FIGURE = 92, 96


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """An SVG. A bar's length is its share of the longest one in its group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if not row.get("lacks"):
            groups.setdefault(row["scenario"], []).append(row)
    heights = {name: HEAD + BAR * len(bars) + GAP for name, bars in groups.items()}
    half = sum(heights.values()) / COLUMNS
    columns: list[list[str]] = [[] for _ in range(COLUMNS)]
    filled = 0.0
    for name in groups:
        columns[min(COLUMNS - 1, int(filled // half)) if half else 0].append(name)
        filled += heights[name]
    height = max((sum(heights[name] for name in column) for column in columns), default=0) + GAP
    width = WIDTH // COLUMNS
    parts = []
    for at, column in enumerate(columns):
        y = GAP
        for name in column:
            parts += _group(name, groups[name], at * width + 12, y, width - 24)
            y += heights[name]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12" role="img"><title>Benchmark results</title>'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _group(name: str, rows: Sequence[dict[str, Any]], x: int, y: int, width: int) -> list[str]:
    scenario = BY_NAME[name]
    metric = scenario.metric
    better = "" if metric.more else ", less is better"
    parts = [
        f'<text x="{x}" y="{y + 10}" font-weight="bold" fill="#111111">{escape(scenario.title)}'
        f'<tspan font-weight="normal" fill="#555555"> ({escape(metric.unit + better)})</tspan></text>'
    ]
    longest = max((row[metric.key] for row in rows if metric.key in row), default=0) or 1
    room = width - _NAME - _FIGURE
    for number, row in enumerate(rows):
        top = y + HEAD - 6 + number * BAR
        value = row.get(metric.key)
        length = 0.0 if value is None else max(1.0, room * max(value, 0) / longest)
        label = "failed" if value is None else metric.form.format(value)
        parts += [
            f'<text x="{x}" y="{top + 11}" fill="#333333">{escape(row["peer"])}</text>',
            f'<rect x="{x + _NAME}" y="{top + 1}" width="{length:.1f}" height="{BAR - 4}" '
            f'fill="{COLOURS.get(row["peer"], "#888888")}"/>',
            f'<text x="{x + _NAME + length + 5:.1f}" y="{top + 11}" fill="#333333">{escape(label)}</text>',
        ]
    return parts
