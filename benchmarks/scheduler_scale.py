"""Planning and scheduling 100,000 trials: CPU seconds, memory, and peers without any state."""

from __future__ import annotations

import heapq
import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import networkx

from benchmarks.measure import OURS, Case, Goal, Report, Sample, interleave, timed
from benchmarks.paper_study import EXAMPLES, model_facts, task_facts
from orchestrator.graph import TrialGraph
from orchestrator.plan import Plan, make_plan
from orchestrator.scheduler import Scheduler
from orchestrator.shapes import Shapes
from orchestrator.simulate import simulate
from orchestrator.simulated_nodes import Host
from orchestrator.store import Store
from search_spaces.expand import expand
from search_spaces.loading import load_sweep

FIFO = "queue of keys"
NETWORKX = "networkx and a heap"
SMOKE_SEEDS, QUICK_SEEDS, FULL_SEEDS = 1, 12, 123  # 123 seeds of Table 2 are 100,318 trials
NUM_SLOTS = 64


def run(smoke: bool, quick: bool = False) -> Report:
    """Plan once, then run all trials through each scheduler, and once on the simulated clock."""
    num_seeds = SMOKE_SEEDS if smoke else QUICK_SEEDS if quick else FULL_SEEDS
    num_rounds = 1 if smoke else 3
    planned, plan_sample = timed(partial(plan_of, num_seeds))
    graph, name = planned.graph, f"{len(planned.rows):,} trials"
    seconds = {row.key: row.seconds for row in planned.rows}
    schedule, clock = timed(lambda: simulate(graph, seconds, [Host(8)] * (NUM_SLOTS // 8)))
    assert len(schedule.attempts) == len(graph)
    variants = {
        FIFO: partial(_measured, _by_queue, graph),
        NETWORKX: partial(_measured, _by_networkx, graph),
        OURS: partial(_measured, _by_ours, graph),
    }
    samples = interleave(variants, num_rounds, num_warmups=0)
    rate = 2 * len(graph) / clock["cpu_s"]
    told = f"With the simulated clock and {NUM_SLOTS} gangs: {rate:,.0f} transitions a CPU second."
    plan_sample = {**plan_sample, "peak_mib": _peak_mib()}
    plan_goals = () if smoke or quick else (Goal("cpu_s", 10.0), Goal("peak_mib", 1024.0))
    goals = (Goal("us_per_transition", 100.0, meaning="10,000 transitions a second"),)
    return Report(
        variants={
            FIFO: "in-degrees and a `deque`; no order, no states, no retries",
            NETWORKX: "a `networkx.DiGraph`, in-degrees and `heapq` in the order given; no states",
            OURS: "`Scheduler`: longest chain first, states, retries; making it is counted",
        },
        settings={
            "sweep": f"chen2020-table2, both models, {num_seeds} seeds; an empty store",
            "plan": "expansion, graph and plan; the peak is of the process, simulation included",
            "transition": "a start or an end; trials end in the order in which they started",
            "rounds": str(num_rounds),
        },
        cases=(
            Case(f"plan of {name}", {OURS: [plan_sample]}, (), plan_goals),
            Case(f"schedule of {name}", samples, (told,), goals),
        ),
    )


def plan_of(num_seeds: int) -> Plan:
    """Expand Table 2 of both models with some seeds, and plan it on an empty store."""
    spec = load_sweep(EXAMPLES / "chen2020-table2.yaml")
    spec = spec.model_copy(update={"seeds": tuple(range(1, num_seeds + 1))})
    models = {model.name: model_facts(model.name) for model in spec.models}
    trials = expand(spec, models, {task.name: task_facts(task) for task in spec.tasks})
    with tempfile.TemporaryDirectory() as folder:
        return make_plan(trials, Store(folder), Shapes.of(spec))


def _measured(work: Callable[[TrialGraph], int], graph: TrialGraph, _number: int) -> Sample:
    num_ended, sample = timed(partial(work, graph))
    assert num_ended == len(graph)
    return {**sample, "us_per_transition": 1e6 * sample["cpu_s"] / (2 * len(graph))}


def _by_queue(graph: TrialGraph) -> int:
    unmet = {key: len(graph.parents(key)) for key in graph}
    ready = deque(key for key in graph if not unmet[key])
    running: deque[str] = deque()
    num_ended = 0
    while ready or running:
        while ready and len(running) < NUM_SLOTS:
            running.append(ready.popleft())
        num_ended += 1
        for child in graph.children(running.popleft()):
            unmet[child] -= 1
            if not unmet[child]:
                ready.append(child)
    return num_ended


def _by_networkx(graph: TrialGraph) -> int:
    peer = networkx.DiGraph()
    peer.add_nodes_from(graph)
    peer.add_edges_from((parent, key) for key in graph for parent in graph.parents(key))
    order = {key: index for index, key in enumerate(graph)}
    unmet = dict(peer.in_degree())
    ready = [(order[key], key) for key in graph if not unmet[key]]
    running: deque[str] = deque()
    num_ended = 0
    while ready or running:
        while ready and len(running) < NUM_SLOTS:
            running.append(heapq.heappop(ready)[1])
        num_ended += 1
        for child in peer.successors(running.popleft()):
            unmet[child] -= 1
            if not unmet[child]:
                heapq.heappush(ready, (order[child], child))
    return num_ended


def _by_ours(graph: TrialGraph) -> int:
    scheduler = Scheduler(graph)
    running: deque[str] = deque()
    num_ended = 0
    while not scheduler.is_finished:
        for key in scheduler.ready(0.0, NUM_SLOTS - len(running)):
            scheduler.start(key, "a")
            running.append(key)
        scheduler.succeed(running.popleft())
        num_ended += 1
    return num_ended


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
