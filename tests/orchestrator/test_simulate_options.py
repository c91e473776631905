"""What users may ask of a simulation: durations, nodes, gangs, speeds; all faults at once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator.graph import TrialGraph
from orchestrator.simulate import simulate
from orchestrator.simulate_options import GPU_SPEEDS, Options, parse_duration, understood
from orchestrator.simulated_figures import Unit, figures_of
from orchestrator.simulated_nodes import Host
from orchestrator.simulated_screens import told
from search_spaces.contracts import Compute
from search_spaces.errors import SpecError, UserError
from tests.orchestrator.factories import make_trial

GPU = Compute(num_ranks=2, num_gpus_per_rank=1)
ONE = Compute(num_gpus_per_rank=1)


def setting(options: Options, *shapes: Compute, **limits):
    return understood(options, shapes or (GPU,), **limits)


def hosts_of(options: Options, *shapes: Compute, **limits):
    return setting(options, *shapes, **limits).slots.hosts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("12h", 43_200), ("1.5d", 129_600), (" 2 h ", 7200), (".5m", 30)],
)
def test_durations_are_a_number_and_a_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "12", "h", "-1h", "12 hours", "1h30m", "nan s", "1e3s", "9" * 400 + "d"]
)
def test_other_durations_are_none(text):
    assert parse_duration(text) is None


def test_all_wrong_options_are_told_at_once():
    """Each with what was given, what is allowed and an example."""
    wrong = Options(0, 4, 0, "h20", "12", math.nan, "soon", gantt=Path("run.jpg"))
    with pytest.raises(SpecError) as caught:
        setting(wrong)
    assert [str(fault) for fault in caught.value.faults] == [
        "tickets simulate: --cpus: the sweep's gangs are of GPUs: resources.gpus_per_rank is 1. "
        "Give --gpus instead.",
        "tickets simulate: --gpus: is 0, but must be between 1 and 100,000.",
        "tickets simulate: --node-size: is 0, but must be between 1 and 100,000.",
        "tickets simulate: --gpu-kind: 'h20' is not known; there are h200, h100, a100, v100. "
        "Did you mean 'h200'?",
        "tickets simulate: --gantt: run.jpg: is neither PNG nor HTML. Name it OUT.png or OUT.html.",
        "tickets simulate: --mtbf: '12' is no duration: a number and s, m, h or d. "
        "For example: --mtbf 12h.",
        "tickets simulate: --repair: 'soon' is no duration: a number and s, m, h or d. "
        "For example: --repair 12h.",
        "tickets simulate: --preemption-rate: is nan, but must be between 0 and 60 an hour, "
        "of one node.",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(), "--gpus: how large is the cluster? For example: --gpus 64."),
        (Options(8, mtbf="5s"), "--mtbf: is 5s, but must be at least 60s."),
        (Options(8, mtbf=""), "--mtbf: '' is no duration"),
        (Options(10**9), "--gpus: is 1000000000, but must be between 1 and 100,000."),
        (Options(1), "Not even one gang fits the cluster"),
    ],
)
def test_each_wrong_option_is_told(options, message):
    with pytest.raises(UserError) as caught:
        setting(options)
    assert message in str(caught.value)


def test_hosts_are_nodes_cut_into_gangs():
    """Gangs stay on a node where they fit; a larger one spans nodes and fails with any."""
    assert hosts_of(Options(20)) == (Host(4), Host(4), Host(2))
    assert hosts_of(Options(20), gangs=5) == (Host(4), Host(1))
    wide = Compute(num_ranks=16, num_gpus_per_rank=1)
    assert hosts_of(Options(64), wide) == (Host(1, num_nodes=2),) * 4
    cpu = setting(Options(cpus=4, node_size=2), Compute(num_threads=2))
    assert (cpu.slots.hosts, cpu.speed) == ((Host(1), Host(1)), 1.0)
    assert setting(Options(8, gpu_kind="a100")).speed == GPU_SPEEDS["a100"]


def test_max_gpus_limits_the_cluster():
    """Gangs, or GPUs where gangs differ, beyond it are not there: the last node is cut."""
    assert hosts_of(Options(20), max_gpus=11) == (Host(4), Host(1))
    wide = Compute(num_ranks=16, num_gpus_per_rank=1)
    assert hosts_of(Options(64), wide, max_gpus=40) == (Host(1, num_nodes=2),) * 2
    assert hosts_of(Options(20), ONE, GPU, max_gpus=11) == (Host(8), Host(3))
    assert hosts_of(Options(20), ONE, wide, max_gpus=17) == (Host(16, 2), Host(1))


def test_gangs_of_several_sizes_share_gpus_or_cpus():
    """A slot is a GPU, a rank or a CPU, and a gang takes as many as it has."""
    mixed = setting(Options(20), ONE, GPU.with_micro_batch(4), gangs=9).slots
    assert mixed.hosts == (Host(8), Host(8), Host(4))
    assert (mixed.width(ONE), mixed.width(GPU), mixed.most) == (1, 2, 9)
    assert mixed.unit == ("GPU", "GPU", 1.0)
    halves = [Compute(num_ranks=ranks, num_gpus_per_rank=0.5) for ranks in (1, 4)]
    shared = setting(Options(2), *halves).slots
    assert (shared.hosts, shared.unit) == ((Host(4),), ("rank", "GPU", 0.5))
    threads = [Compute(num_ranks=2, num_threads=3), Compute(num_threads=2)]
    cpu = setting(Options(cpus=12, node_size=4), *threads).slots
    assert (cpu.hosts, [cpu.width(one) for one in threads]) == ((Host(8, 2), Host(4)), [6, 2])
    with pytest.raises(UserError, match=r"Not even one gang fits the cluster: 2 rank\(s\)"):
        setting(Options(1), ONE, GPU)


def test_a_large_gang_gets_its_place_among_small_trials():
    """The longest remaining lineage goes first; while it waits, nothing smaller overtakes it.

    Five small trials run for 10 s when the large one becomes ready at 1 s; two GPUs stay empty
    until the third is free, though small trials are ready all the time.
    """
    first = make_trial(seed=1, train_steps=1)
    large = make_trial(seed=2, parent=first.key, train_steps=4000)
    small = [make_trial(seed=3 + n, train_steps=10) for n in range(30)]
    graph = TrialGraph([first, large, *small])
    seconds = dict.fromkeys(graph, 10.0) | {first.key: 1.0}
    widths = {large.key: 4}
    schedule = simulate(graph, seconds, [Host(6)], widths=widths)
    starts = {one.key: one.start for one in schedule.attempts}
    assert (starts[first.key], starts[large.key]) == (0.0, 10.0)
    assert sum(1.0 <= starts[one.key] < 10.0 for one in small) == 0
    figures = figures_of(graph, seconds, schedule, Unit("GPU", "GPU", 1.0))
    text = "\n".join(told(figures, dict.fromkeys(graph, "one")))
    assert f"makespan      {figures.makespan_s:.1f} s on 6 GPUs, 32 trials done" in text
    assert f"device time   {341 / 3600:.2f} GPU-hours" in text
    assert simulate(graph, seconds, [Host(6)], widths=widths, most=1).wall_s == 311.0
