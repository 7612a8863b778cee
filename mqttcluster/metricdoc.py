"""docs/metrics.md, made from the table in `mqttcluster.broker.metric_table`.

To write it anew: ``python -m mqttcluster.metricdoc > docs/metrics.md``. A test fails when it is stale, and another one
compares the table with what a running node shows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from mqttcluster.broker.metric_table import METRICS, Metric

_HEAD = """# Metrics

<!-- Made by `python -m mqttcluster.metricdoc > docs/metrics.md`; a test fails when it is stale. -->

A node that is started with `--admin ENDPOINT` answers three questions over HTTP there:

| path | answer |
|---|---|
| `/healthz` | 200 while the process turns its event loop. For a liveness probe |
| `/readyz` | 200 while new clients are welcome; else 503, and the JSON body says why. For readiness and balancers |
| `/metrics` | the figures below, in the text format of Prometheus |

A node is not ready while it starts (its listeners are not open), while its store fails or does not answer, while it
waits for the Redis that the cluster shares or has not caught up with the routes of the other nodes, and while it stops.
Nobody is asked for a password there: give `--admin` an interface that only the probes and Prometheus reach.

All figures are of one node and begin at 0 when it starts; Prometheus adds up nodes. Counting costs nothing that could
be measured; a scrape costs one look at each connected client. No label has a value that a client chooses.

Beside these, there are the metrics of the process as prometheus-client names them: `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_open_fds`, `process_max_fds`,
`process_start_time_seconds`, and `python_gc_objects_collected_total`, `python_gc_objects_uncollectable_total`,
`python_gc_collections_total`.
"""


def document() -> str:
    """The whole text."""
    lines = [_HEAD]
    for group in dict.fromkeys(metric.group for metric in METRICS):
        lines += [f"## {group}\n", "| metric | type | meaning | labels |", "|---|---|---|---|"]
        lines += [_row(metric) for metric in METRICS if metric.group == group]
        lines.append("")
    return "\n".join(lines)


def _row(metric: Metric) -> str:
    labels = "; ".join(f"`{name}`: {values}" for name, values in metric.labels.items())
    return f"| `{metric.name}` | {metric.kind} | {metric.help} | {labels} |"


def main(write: Callable[[str], object] = sys.stdout.write) -> None:
    """Write docs/metrics.md to standard output."""
    write(document())


if __name__ == "__main__":
    main()
