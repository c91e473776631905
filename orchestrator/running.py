"""Run a sweep for real: session, executor, driver. Imports Ray, so only `tickets run` does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from cluster.metrics import SweepMetrics
from cluster.ray_executor import RayExecutor
from cluster.session import Session
from cluster.share import Sharing
from cluster.slot import GangLife
from orchestrator.choices import policy_of
from orchestrator.driver import run_sweep
from orchestrator.gang_sizes import room_of, shapes_for, sizes_told
from orchestrator.journal import Journal
from orchestrator.lease import Lease
from orchestrator.listeners import Listener, ListenerGroup, SweepOutcome
from orchestrator.metrics_listener import MetricsListener
from orchestrator.requests import request_maker
from orchestrator.retries import RetryRules, budgets_of
from orchestrator.steady_clock import SteadyClock
from orchestrator.store import Store
from orchestrator.sweep_context import SweepContext
from search_spaces.errors import UserError


def run_on_ray(
    context: SweepContext,
    listener: Listener,
    announce: Callable[[str], None],
    check: Callable[[], None],
    take_over: bool = False,
    lag: Callable[[], int] = lambda: 0,
) -> SweepOutcome:
    """Run all of a sweep's trials on the Ray cluster of RAY_ADDRESS, or on a local one.

    Args:
        context: The sweep.
        listener: Told of every change.
        announce: Told where things are.
        check: Called in every round of the driver's loop; may raise KeyboardInterrupt.
        take_over: Take the sweep over from a driver that shows no life any more.
        lag: Asked how many results MLflow lacks.

    Raises:
        UserError: Another process runs the sweep or takes it over, or store or cluster cannot
            be used.
    """
    spec = context.spec
    store = Store(spec.store)
    context.given.keep(spec)
    info = context.info
    clock = SteadyClock()
    with (
        Lease.acquire(store.uri, info.name, info.sweep_hash, take_over, announce) as lease,
        Journal.open(context.journal_path, info, clock()) as journal,
        Session() as ray,
    ):
        if ray.is_multi_node and store.folder:
            refuse_unshared(ray, store.folder)
        announce(f"Ray: {ray.description}  dashboard: {ray.dashboard_url or 'not started'}")
        shapes = shapes_for(spec, context.trials, room_of(spec, ray.nodes, ray.grows))
        if shapes.by_trial:
            announce(f"Trials: {sizes_told(shapes)}")
        compute, *others = shapes.distinct
        make_request = request_maker(
            spec, context.models, context.tasks, store, context.cache, shapes
        )
        wanted = None if spec.resources.gangs == "auto" else spec.resources.gangs
        metrics = SweepMetrics(spec.name)
        told = MetricsListener(metrics, context.trials, journal.counts, lag)
        given = spec.resources
        life = GangLife(idle_release_s=given.idle_release_s, hang_limits=spec.retries.hang_after_s)
        sharing = Sharing(spec.name, given.priority, given.max_gpus)
        executor = RayExecutor(ray, compute, wanted, life, sharing=sharing, others=others)
        return run_sweep(
            context.trials,
            store,
            journal,
            executor,
            policy_of(spec, context.trials, store.read),
            budgets_of(spec.retries),
            ListenerGroup([listener, told]),
            clock,
            make_request,
            lambda: _check_both(lease, check),
            RetryRules.of(spec.retries),
            lambda: lease.is_current,
            shapes,
        )


def _check_both(lease: Lease, check: Callable[[], None]) -> None:
    check()
    lease.check()


def refuse_unshared(ray: Session, folder: Path) -> None:
    """Make sure that every node of the cluster sees a store that is a folder.

    Raises:
        UserError: A node does not: its trials could neither read masks nor keep results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".seen-{uuid.uuid4().hex}"
    probe.touch()
    try:
        blind = ray.nodes_without(probe)
    finally:
        probe.unlink()
    if blind:
        raise UserError(
            f"store: '{folder}' is not seen by the node(s) {', '.join(blind)}. Name a folder that "
            "all nodes mount at the same place, or a URI such as s3://bucket/tickets."
        )
