"""What `tickets simulate` is told: the cluster, its hazards and its kind of GPU, all checked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.simulated_hosts import Slots, slots_of
from orchestrator.simulated_nodes import Hazards
from search_spaces.contracts import Compute
from search_spaces.errors import Fault, SpecError, did_you_mean

PLACE = "tickets simulate"
CHARTS = (".png", ".html")
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MOST_DEVICES = 100_000  # of a simulated cluster: each node has its own draws
LEAST_S = 60.0  # between two outages of one node: below, nothing would ever end
# Against the H200 of the cost model. h100: time to train of MLPerf v4.0 (5.21 / 5.47 minutes on
# eight); a100, v100: published dense half-precision peaks, 312 and 125 of 989 TFLOP/s.
GPU_SPEEDS = {"h200": 1.0, "h100": 0.95, "a100": 0.32, "v100": 0.13}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)\s*([smhd])")


@dataclass(frozen=True)
class Options:
    """The options as they were typed."""

    gpus: int | None = None
    cpus: int | None = None
    node_size: int = 8
    gpu_kind: str = "h200"
    mtbf: str | None = None
    preemption_rate: float = 0.0
    repair: str = "10m"
    seed: int = 0
    gantt: Path | None = None


@dataclass(frozen=True)
class Setting:
    """The options, understood.

    Attributes:
        slots: The cluster.
        hazards: How often its nodes go down.
        speed: Of its GPUs, against those of the cost model.
    """

    slots: Slots
    hazards: Hazards
    speed: float


def understood(
    options: Options,
    shapes: Sequence[Compute],
    gangs: Literal["auto"] | int = "auto",
    max_gpus: float | None = None,
) -> Setting:
    """Check the options against the shapes of the sweep's gangs.

    Args:
        options: As typed.
        shapes: Of the gangs.
        gangs: How many the sweep wants at most.
        max_gpus: Most GPUs of all of them together.

    Raises:
        SpecError: Options are wrong; all of them at once.
        UserError: The cluster has no room for one gang of some shape.
    """
    faults = [*_size_faults(options, shapes[0]), *_kind_faults(options), *_chart_faults(options)]
    hazards = _hazards(options, faults)
    if faults:
        raise SpecError(faults)
    devices = options.gpus or options.cpus or 0
    slots = slots_of(devices, options.node_size, shapes, gangs, max_gpus)
    return Setting(slots, hazards, GPU_SPEEDS[options.gpu_kind] if options.gpus else 1.0)


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration such as 90s, 10m, 12h or 1.5d; None = it is none."""
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * UNITS_S[found[2]] if found else math.inf
    return seconds if math.isfinite(seconds) else None


def _size_faults(options: Options, compute: Compute) -> list[Fault]:
    name, other = ("gpus", "cpus") if compute.num_gpus_per_rank else ("cpus", "gpus")
    faults = []
    if getattr(options, other) is not None:
        problem = f"the sweep's gangs are of {name[:-1].upper()}s: resources.gpus_per_rank is "
        problem += f"{compute.num_gpus_per_rank:g}."
        faults.append(Fault(PLACE, f"--{other}", problem, f"Give --{name} instead."))
    elif getattr(options, name) is None:
        problem = "how large is the cluster?"
        faults.append(Fault(PLACE, f"--{name}", problem, f"For example: --{name} 64."))
    for option, value in (
        (f"--{name}", getattr(options, name)),
        ("--node-size", options.node_size),
    ):
        if value is not None and not 1 <= value <= MOST_DEVICES:
            problem = f"is {value}, but must be between 1 and {MOST_DEVICES:,}."
            faults.append(Fault(PLACE, option, problem))
    return faults


def _kind_faults(options: Options) -> list[Fault]:
    kind = options.gpu_kind
    if kind in GPU_SPEEDS:
        return []
    problem = f"'{kind}' is not known; there are {', '.join(GPU_SPEEDS)}."
    return [Fault(PLACE, "--gpu-kind", problem, did_you_mean(kind, GPU_SPEEDS))]


def _chart_faults(options: Options) -> list[Fault]:
    if options.gantt is None or options.gantt.suffix.lower() in CHARTS:
        return []
    problem = f"{options.gantt}: is neither PNG nor HTML."
    return [Fault(PLACE, "--gantt", problem, "Name it OUT.png or OUT.html.")]


def _hazards(options: Options, faults: list[Fault]) -> Hazards:
    """Return the hazards, or add what is wrong with them to ``faults``."""
    mtbf_s = math.inf
    if options.mtbf is not None:
        mtbf_s = _seconds("--mtbf", options.mtbf, LEAST_S, faults)
    repair_s = _seconds("--repair", options.repair, 0.0, faults)
    most = UNITS_S["h"] / LEAST_S
    rate = options.preemption_rate
    if not 0 <= rate <= most:  # so that NaN is refused too
        problem = f"is {rate:g}, but must be between 0 and {most:g} an hour, of one node."
        faults.append(Fault(PLACE, "--preemption-rate", problem))
    return Hazards(mtbf_s, rate, repair_s, options.seed)


def _seconds(option: str, text: str, least: float, faults: list[Fault]) -> float:
    seconds = parse_duration(text)
    if seconds is None:
        problem = f"'{text}' is no duration: a number and s, m, h or d."
        faults.append(Fault(PLACE, option, problem, f"For example: {option} 12h."))
    elif seconds < least:
        faults.append(Fault(PLACE, option, f"is {text}, but must be at least {least:g}s."))
    return seconds or least
