"""One measurement, in a process of its own: ``python -m benchmarks.worker JSON``; the result is JSON, too."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import crowd, flow, paced, stored
from benchmarks.flow import Load
from benchmarks.links import Refused


def measure(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """`kind` names the function, `arguments` are its."""
    if kind == "flow":
        return flow.run(Load(**arguments))
    if kind == "paced":
        rate = arguments.pop("pace")
        return paced.run(Load(**arguments), rate)
    if kind == "held":
        return _held(arguments)
    functions: dict[str, Callable[..., dict[str, Any]]] = {
        "connects": crowd.connects,
        "sessions": crowd.sessions,
        "retained": stored.retained,
        "queue": stored.queue,
    }
    return functions[kind](**arguments)


def _held(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same load with few and with many subscriptions or connections held."""
    few = dict(arguments, run=arguments["run"] + "f")
    for name in ("held_subscriptions", "held_connections"):
        few[name] = min(10, arguments.get(name, 0))
    with_few = flow.run(Load(**few))
    result = flow.run(Load(**dict(arguments, run=arguments["run"] + "m")))
    lost = None if with_few["lost"] is None or result["lost"] is None else with_few["lost"] + result["lost"]
    return {**result, "rate_with_10": with_few["rate"], "share": result["rate"] / with_few["rate"], "lost": lost}


def main() -> None:
    request = json.loads(sys.argv[1])
    gc.disable()
    try:
        result = measure(request["kind"], request["arguments"])
    except (Refused, AssertionError, OSError) as error:
        result = {"failed": f"{error}" or type(error).__name__}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
