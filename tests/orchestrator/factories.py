"""Small real trials for the tests of the orchestrator."""

from __future__ import annotations

from search_spaces.contracts import (
    ArtifactInfo,
    Compute,
    MaskArtifact,
    MaskInfo,
    ModelPlace,
    NumericsClass,
    Proof,
    SplitScore,
    TaskPlace,
    TrialRequest,
    TrialResult,
    attempt_folder,
)
from search_spaces.recipes import Recipe
from search_spaces.trial import (
    ModelIdentity,
    Outputs,
    PruneOutput,
    Role,
    TaskIdentity,
    TrainedMask,
    Trial,
    TrialSpec,
)
from workers.artifacts import write_artifact

NUM_PRUNABLE = 1000


def make_trial(
    seed: int = 0,
    parent: str | None = None,
    num_removed: int = 100,
    prunes: tuple[int, ...] = (),
    carry_from: str | None = None,
    train_steps: int = 10,
    kind: str = "round",
    round_index: int | None = None,
    data: str = "data",
) -> Trial:
    """Return a trial of a tiny model; ``prunes`` are the K of the masks that it leaves."""
    spec = TrialSpec(
        model=ModelIdentity(
            family="bert",
            theta0_sha256="theta0",
            config_sha256="config",
            tokenizer_sha256="tokenizer",
            prunable_sha256="prunable",
            num_prunable=NUM_PRUNABLE,
        ),
        task=TaskIdentity(
            problem="classification",
            num_labels=2,
            metric="accuracy",
            data_sha256=data,
            select_sha256="select",
            num_train_examples=64,
            max_length=16,
        ),
        recipe=Recipe(
            train_steps=train_steps,
            lr_horizon_steps=train_steps,
            batch_size=4,
            learning_rate=1e-4,
        ),
        seed=seed,
        mask=TrainedMask(parent=parent, num_removed=num_removed) if parent else None,
        carry_from=carry_from,
        code_version=1,
    )
    role = Role(
        kind=kind,
        model="tiny",
        task="toy",
        method="imp",
        seed=seed,
        search_seed=seed,
        round_index=round_index,
        sparsity=num_removed / NUM_PRUNABLE if parent else 0.0,
    )
    outputs = Outputs(
        prunes=tuple(PruneOutput(pruner="global-magnitude", num_removed=k) for k in prunes)
    )
    return Trial(spec=spec, roles=(role,), outputs=outputs)


def make_lineage(seed: int = 0, num_rounds: int = 3, **changes: object) -> list[Trial]:
    """Return the rounds of one lineage: round 0 is dense, each prunes for the next."""
    trials: list[Trial] = []
    for index in range(num_rounds):
        trials.append(
            make_trial(
                seed=seed,
                parent=trials[-1].key if trials else None,
                num_removed=max(1, 100 * index),
                prunes=(100 * (index + 1),),
                round_index=index,
                **changes,
            )
        )
    return trials


def make_dag(parent_choices: list[list[int]]) -> list[Trial]:
    """Return trials 0, 1, ...; trial i has the (at most two, earlier) parents that it names."""
    trials: list[Trial] = []
    for index, parents in enumerate(parent_choices):
        keys = [trials[parent].key for parent in parents]
        trials.append(
            make_trial(
                seed=index,
                parent=keys[0] if keys else None,
                carry_from=keys[1] if len(keys) > 1 else None,
                train_steps=1 + index % 3,
                prunes=(100,),
            )
        )
    return trials


def leave_artifacts(store_uri: str, trial: Trial, attempt: str) -> dict[str, ArtifactInfo]:
    """Write the files that a trial's outputs name into the attempt's folder."""
    folder = attempt_folder(store_uri, trial.key, attempt)
    return {
        name: write_artifact(folder, name, f"{trial.key} {name}".encode())
        for name in trial.outputs.artifacts
    }


def make_result(
    trial: Trial,
    attempt: str,
    artifacts: dict[str, ArtifactInfo] | None = None,
    score: float = 0.9,
    train_s: float = 2.0,
    other_s: float = 0.5,
) -> TrialResult:
    """Return a result of the trial with the given artifacts."""
    artifacts = artifacts or {}
    masks = {
        prune.artifact: MaskArtifact(
            file=artifacts[prune.artifact],
            mask=MaskInfo(
                sha256="bits",
                num_weights=NUM_PRUNABLE,
                num_removed=prune.num_removed,
                kept_per_matrix={"w": NUM_PRUNABLE - prune.num_removed},
                sparsity_per_matrix={"w": prune.num_removed / NUM_PRUNABLE},
            ),
        )
        for prune in trial.outputs.prunes
        if prune.artifact in artifacts
    }
    return TrialResult(
        trial_key=trial.key,
        attempt=attempt,
        scores={
            "select": SplitScore(
                metrics={"accuracy": score}, num_examples=10, constant_predictor=False
            )
        },
        metric="accuracy",
        losses=((1, 0.7), (trial.spec.recipe.train_steps, 0.3)),
        num_steps=trial.spec.recipe.train_steps,
        num_train_tokens=160,
        num_truncated=0,
        masks=masks,
        artifacts=artifacts,
        proof=Proof(
            num_start_tensors_equal_theta0=1,
            num_masked_zero_in_model=0,
            num_masked_zero_in_masters=0,
        ),
        numerics=NumericsClass(
            device="cpu",
            dtype="fp32",
            layout="unpadded",
            num_ranks=1,
            micro_batch_size=4,
            num_threads=1,
            versions={"torch": "2.13.0"},
        ),
        seconds={"train": train_s, "total": train_s + other_s},
        peak_memory_gib=0.1,
        host="localhost",
        started_at="2026-11-21T00:00:00+00:00",
    )


def finish(store_uri: str, trial: Trial, attempt: str, **changes: float) -> TrialResult:
    """Leave the files of a successful attempt and return its result, not yet committed."""
    return make_result(trial, attempt, leave_artifacts(store_uri, trial, attempt), **changes)


def make_request(store_uri: str, trial: Trial, attempt: str) -> TrialRequest:
    """Return a request that no worker of this test needs to understand in full."""
    return TrialRequest(
        spec=trial.spec,
        label=trial.main_role.label,
        attempt=attempt,
        attempt_uri=attempt_folder(store_uri, trial.key, attempt),
        outputs=trial.outputs,
        model=ModelPlace(folder="model"),
        task=TaskPlace(name="toy", source={}, select={}),
        cache_folder="cache",
        compute=Compute(),
    )
