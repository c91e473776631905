"""The paper's whole study on a simulated clock: our order of trials against first come, first."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping

from benchmarks.measure import OURS, Case, Goal, Report
from benchmarks.paper_study import printed, step_s, trials_of
from orchestrator.gang_sizes import comparable, gang_sizes
from orchestrator.graph import TrialGraph
from orchestrator.simulate import simulate
from orchestrator.simulated_figures import Figures, critical_path, figures_of
from orchestrator.simulated_nodes import Host
from search_spaces.contracts import Compute

FIFO = "first in, first out"
NARROW = "one GPU a trial"
EACH = "a size for each trial"
NUM_GPUS = (4, 16, 64)
GANG_SIZES = (1, 2, 4, 8)
NODE_GPUS = 8
MODELS = ("bert-base", "bert-large")


def run(smoke: bool) -> Report:
    """Simulate both studies of each model; the clock is simulated, so one round is enough."""
    models = MODELS[:1] if smoke else MODELS
    names = ("figure2",) if smoke else ("table2", "figure2")
    cases: list[Case] = []
    for model in models:
        trials = trials_of(model, names)
        for study, chosen in (("all levels", trials), ("as printed", printed(trials))):
            graph, name = TrialGraph(chosen), f"{model}, {study}"
            cases += [_order_case(name, graph, num) for num in NUM_GPUS]
        cases.append(_gang_case(name, graph, NUM_GPUS[-1]))
    return Report(
        variants={
            FIFO: "a queue in the order in which trials become ready, as a plain task queue has",
            NARROW: "ours, with one GPU for every trial",
            EACH: "ours, with gang sizes chosen for each trial alone",
            OURS: "the scheduler: longest chain first; in the last case also the gangs that "
            "`resources.ranks: auto` gets (`orchestrator/gang_sizes.py`)",
        },
        settings={
            "study": "examples/chen2020-table2.yaml and -figure2.yaml together, on an empty store; "
            "as printed: only the levels and runs whose scores the paper prints",
            "durations": "modelled (`benchmarks/paper_study.py`), not measured; steps only",
            "gangs": "one GPU each; in the last case 1, 2, 4 or 8 GPUs of one node, one size for "
            "the rounds of a lineage and one for all trials of a task that are compared",
        },
        cases=tuple(cases),
    )


def durations(graph: TrialGraph, num_gpus: int = 1) -> dict[str, float]:
    """Return the modelled seconds of each trial on a gang of some GPUs; see `step_s`."""
    specs = ((key, graph[key].spec) for key in graph)
    return {key: spec.num_steps * step_s(spec, num_gpus) for key, spec in specs}


def least_path(graph: TrialGraph) -> tuple[float, str]:
    """Return the critical path were every trial at its quickest size, and whose task it is."""
    by_size = [durations(graph, size) for size in GANG_SIZES]
    seconds, chain = critical_path(graph, {key: min(of[key] for of in by_size) for key in graph})
    return seconds, graph[chain[0]].main_role.task


def fifo_wall_s(graph: TrialGraph, seconds: Mapping[str, float], num_slots: int) -> float:
    """Return the makespan of a plain queue: what becomes ready first starts first."""
    unmet = {key: len(graph.parents(key)) for key in graph}
    queue = deque(key for key in graph if not unmet[key])
    running: list[tuple[float, str]] = []
    now = 0.0
    while queue or running:
        while queue and len(running) < num_slots:
            key = queue.popleft()
            heapq.heappush(running, (now + seconds[key], key))
        now, key = heapq.heappop(running)
        for child in graph.children(key):
            unmet[child] -= 1
            if not unmet[child]:
                queue.append(child)
    return now


def hosts_for(num_gpus: int) -> list[Host]:
    """Return nodes of at most eight GPUs."""
    return [Host(min(NODE_GPUS, num_gpus - at)) for at in range(0, num_gpus, NODE_GPUS)]


def _order_case(study: str, graph: TrialGraph, num_gpus: int) -> Case:
    seconds = durations(graph)
    figures = figures_of(graph, seconds, simulate(graph, seconds, hosts_for(num_gpus)))
    fifo_s = fifo_wall_s(graph, seconds, num_gpus)
    samples = {
        FIFO: [{"makespan_s": fifo_s, "over_bound": fifo_s / figures.bound_s}],
        OURS: [{"makespan_s": figures.makespan_s, "over_bound": figures.ratio}],
    }
    meaning = "makespan / the larger of all work over all GPUs and the critical path"
    goals = (Goal("over_bound", 1.1, meaning=meaning),)
    return Case(f"{study}, {num_gpus} GPUs", samples, (_bounds(figures),), goals)


def _bounds(figures: Figures) -> str:
    return (
        f"{figures.num_trials:,} trials; work over all GPUs {figures.work_bound_s:,.0f} s, "
        f"critical path {figures.chain_s:,.0f} s over {len(figures.chain)} trials."
    )


def _gang_case(study: str, graph: TrialGraph, num_gpus: int) -> Case:
    by_size = {size: durations(graph, size) for size in GANG_SIZES}
    choices = {key: {size: by_size[size][key] for size in GANG_SIZES} for key in graph}
    alone = {key: number for number, key in enumerate(graph)}
    chosen = {
        NARROW: dict.fromkeys(graph, 1),
        EACH: gang_sizes(graph, choices, alone, num_gpus),
        OURS: gang_sizes(graph, choices, comparable(graph), num_gpus),
    }
    samples = {name: [_walls(graph, choices, of, num_gpus)] for name, of in chosen.items()}
    path_s = {name: sample["critical_path_s"] for name, (sample,) in samples.items()}
    sizes = list(chosen[OURS].values())
    counted = ", ".join(f"{sizes.count(size):,} of {size}" for size in GANG_SIZES)
    least_s, task = least_path(graph)
    facts = (
        f"Gangs by GPUs: {counted}. Sizes grow only until the critical path is no longer than all "
        f"work over {num_gpus} GPUs; with every trial at its quickest size the path would take "
        f"{least_s:,.0f} s ({path_s[NARROW] / least_s:.2f}x), {task}'s.",
        f"A size for each trial alone cuts the path {path_s[NARROW] / path_s[EACH]:.2f}x; tickets "
        "would then be compared with dense trials of another numerics class.",
    )
    goals = (Goal("critical_path_s", 2.0, peer=NARROW),)
    return Case(f"{study}, {num_gpus} GPUs, gang sizes chosen", samples, facts, goals)


def _walls(
    graph: TrialGraph,
    choices: Mapping[str, Mapping[int, float]],
    sizes: Mapping[str, int],
    num_gpus: int,
) -> dict[str, float]:
    seconds = {key: choices[key][size] for key, size in sizes.items()}
    gangs = {size: Compute(num_ranks=size, num_gpus_per_rank=1) for size in GANG_SIZES}
    schedule = simulate(
        graph,
        seconds,
        hosts_for(num_gpus),
        widths=sizes,
        compute_for=lambda trial: gangs[sizes[trial.key]],
    )
    path_s, _ = critical_path(graph, seconds)
    return {"critical_path_s": path_s, "makespan_s": schedule.wall_s}
