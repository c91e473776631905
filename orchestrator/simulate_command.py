"""The command `tickets simulate`: how long a sweep would take on a cluster that fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.arguments import AsJson, SweepPath
from orchestrator.choices import planned
from orchestrator.costs import MODELLED, OVERHEAD_S
from orchestrator.gang_sizes import room_of, shapes_for, sizes_told
from orchestrator.plan import Plan, PlanRow
from orchestrator.retries import RetryRules, budgets_of
from orchestrator.shapes import Shapes
from orchestrator.simulate import Schedule
from orchestrator.simulate import simulate as simulated
from orchestrator.simulate_options import Options, understood
from orchestrator.simulated_figures import Figures, figures_of
from orchestrator.simulated_hosts import nodes_of
from orchestrator.simulated_nodes import Host
from orchestrator.simulated_screens import basis_line, figures_data, told
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.errors import UserError


def simulate(
    sweep: SweepPath,
    gpus: Annotated[int | None, typer.Option(help="GPUs of the cluster.")] = None,
    cpus: Annotated[
        int | None, typer.Option(help="Its CPUs instead, for a sweep that uses no GPU.")
    ] = None,
    node_size: Annotated[int, typer.Option(help="GPUs, or CPUs, of one node.")] = 8,
    gpu_kind: Annotated[
        str,
        typer.Option(help="h200, h100, a100 or v100; scales durations that were not measured."),
    ] = "h200",
    mtbf: Annotated[
        str | None,
        typer.Option(help="Mean time between failures of one node, as 90s, 30m, 12h or 2d."),
    ] = None,
    preemption_rate: Annotated[
        float, typer.Option(help="Preemptions of one node an hour, for example 0.05.")
    ] = 0.0,
    repair: Annotated[str, typer.Option(help="Time until a node that went down is back.")] = "10m",
    seed: Annotated[int, typer.Option(help="Of the failures; equal seeds, equal answers.")] = 0,
    gantt: Annotated[
        Path | None, typer.Option(help="Draw what each gang does into OUT.png or OUT.html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a run: the real scheduler, with its retries, on a cluster that you describe.

    Nothing is trained and nothing is written but the chart. Durations come from results in the
    store where there are any of the same kind, else from the cost model, as in 'tickets plan'.
    A failed or preempted node ends all attempts on it; each begins anew after its back-off, and
    a trial that is hit too often is given up, with what waits for it: budgets and waits are the
    sweep's own (retries). Policies that would leave trials out in the light of scores have no
    part in it, but what they and 'tickets cancel' have left out by now stays out. As in a run,
    gangs and max_gpus of the sweep's resources limit what runs at once, and where its ranks are
    auto, sizes of gangs are chosen for this cluster.

    The makespan is shown beside two lower bounds: all work with no gang ever idle, and the
    critical path. Where the first is larger, more GPUs make the run shorter; where the second
    is, only quicker trials do.

    Example: tickets simulate SWEEP.yaml --gpus 64 --mtbf 12h --gantt run.png
    """
    context = SweepContext.open(sweep)
    options = Options(gpus, cpus, node_size, gpu_kind, mtbf, preemption_rate, repair, seed, gantt)
    spec = context.spec
    given, shapes = spec.resources, Shapes.of(spec)
    setting = understood(options, shapes.distinct, given.gangs, given.max_gpus)
    nodes = nodes_of(gpus or cpus or 0, node_size, shapes.distinct)
    shapes = shapes_for(spec, context.trials, room_of(spec, nodes))
    if shapes.by_trial:
        setting = understood(options, shapes.distinct, given.gangs, given.max_gpus)
    made = planned(context, Store(spec.store), shapes)
    seconds = _seconds(made, setting.speed)
    budgets, rules = budgets_of(spec.retries), RetryRules.of(spec.retries)
    slots = setting.slots
    widths = {trial.key: slots.width(shapes(trial)) for trial in context.trials}
    schedule = simulated(
        made.graph,
        seconds,
        slots.hosts,
        setting.hazards,
        budgets,
        widths,
        rules,
        shapes,
        slots.most,
    )
    figures = figures_of(made.graph, seconds, schedule, slots.unit)
    labels = _labels(made)
    if as_json:
        typer.echo(json.dumps(figures_data(figures, labels) | {"bases": made.bases}, indent=2))
    else:
        kind = gpu_kind.upper() if gpus else "CPU"
        lines = [basis_line(made.bases, kind)] if made.bases else []
        lines += [f"trials        {sizes_told(shapes)}"] if shapes.by_trial else []
        typer.echo("\n".join([*lines, *told(figures, labels)]))
    if gantt:
        _draw(gantt, spec.name, made, schedule, slots.hosts, figures)
        typer.echo(f"Chart: {gantt}", err=as_json)


def _seconds(made: Plan, speed: float) -> dict[str, float]:
    """Return how long each trial to run takes; results were measured where they were measured."""
    return {row.key: _scaled(row, speed) for row in made.rows if row.action in ("run", "wait")}


def _labels(made: Plan) -> dict[str, str]:
    return {row.key: row.label for row in made.rows}


def _draw(
    path: Path,
    name: str,
    made: Plan,
    schedule: Schedule,
    hosts: Sequence[Host],
    figures: Figures,
) -> None:
    from orchestrator.simulated_gantt import write_gantt

    kinds = {row.key: row.kind for row in made.rows}
    try:
        write_gantt(path, name, schedule, hosts, figures, _labels(made), kinds)
    except OSError as error:
        raise UserError(
            f"--gantt {path}: the chart cannot be written there: {error.strerror}. "
            "Name another file, or mend its folder's rights."
        ) from None


def _scaled(row: PlanRow, speed: float) -> float:
    if row.basis != MODELLED:
        return row.seconds
    return OVERHEAD_S + (row.seconds - OVERHEAD_S) / speed
