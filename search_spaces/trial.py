"""One trial as pure data: what is fine-tuned under which mask, and the key that names it.

A trial's key knows what decides its result and nothing else: no method, schedule, round, sweep,
attempt, host or world size. So a pruning round and a final fine-tune with the same mask, recipe
and seed *are* one trial (method rule 1), and all methods share one dense trial (rule 4). What a
trial prunes afterwards is an output, named beside the key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from search_spaces.canonical import Frozen, remembered_key
from search_spaces.recipes import Recipe

# Raise when a change of the trainer changes results; of a few kinds of trials: trainer_version.py.
TRAINING_CODE_VERSION = 2
PruneMethod = Literal["global-magnitude", "layerwise-magnitude"]


class ModelIdentity(Frozen):
    """What a pre-trained model is, by content (method rule 7)."""

    family: str = Field(description="Architecture family, for example 'bert'.")
    theta0_sha256: str = Field(description="Of the backbone's parameters.")
    config_sha256: str = Field(description="Of the configuration that changes the function.")
    tokenizer_sha256: str = Field(description="Of the tokenizer's files.")
    prunable_sha256: str = Field(description="Of the prunable set: names and shapes, in order.")
    num_prunable: int = Field(gt=0, description="N: weights in the prunable set.")


class TaskIdentity(Frozen):
    """What a task is, by content."""

    problem: Literal["classification", "regression", "masked-lm", "span"]
    num_labels: int = Field(
        gt=0, description="Outputs of the head; 1 for regression and words, 2 for start and end."
    )
    metric: str = Field(description="Primary metric.")
    data_sha256: str = Field(description="Of the data files and how they are read.")
    select_sha256: str = Field(description="Of the rule that holds out the select split.")
    num_train_examples: int = Field(gt=0, description="Examples trained on, fixed by hash.")
    max_length: int = Field(gt=2, description="Tokens; longer inputs are truncated and counted.")
    head_sha256: str = Field(
        default="", description="Of the checkpoint's head, where the task starts from it."
    )


class TrainedMask(Frozen):
    """A mask pruned from a trial's trained weights: iterative or one-shot magnitude pruning."""

    kind: Literal["trained"] = "trained"
    parent: str = Field(description="Key of the trial whose weights were ranked.")
    pruner: PruneMethod = "global-magnitude"
    num_removed: int = Field(gt=0, description="K: weights removed of N.")


class Theta0Mask(Frozen):
    """The magnitude mask of the pre-trained weights: one-shot-theta0, no training needed."""

    kind: Literal["theta0"] = "theta0"
    num_removed: int = Field(gt=0)


class RandomMask(Frozen):
    """Control random-uniform: the first K weights of one seeded permutation are removed."""

    kind: Literal["random-uniform"] = "random-uniform"
    num_removed: int = Field(gt=0)
    seed: int = Field(ge=0)


class RandomLayerwiseMask(Frozen):
    """Control random-layerwise: random within each matrix, at another mask's counts."""

    kind: Literal["random-layerwise"] = "random-layerwise"
    reference: Annotated[TrainedMask | Theta0Mask, Field(discriminator="kind")]
    seed: int = Field(ge=0)


class RandomInitMask(Frozen):
    """Control random-init-magnitude: the magnitude mask of a fresh initialisation."""

    kind: Literal["random-init-magnitude"] = "random-init-magnitude"
    num_removed: int = Field(gt=0)
    seed: int = Field(ge=0)


class GivenMask(Frozen):
    """A mask from outside the sweep, by its content alone: not by where it was found."""

    kind: Literal["given"] = "given"
    mask_sha256: str = Field(description="Of the mask: prunable set and bits, not of the file.")
    num_removed: int = Field(gt=0)


MaskSource = Annotated[
    TrainedMask | Theta0Mask | RandomMask | RandomLayerwiseMask | RandomInitMask | GivenMask,
    Field(discriminator="kind"),
]


class OtherStart(Frozen):
    """What a control puts in place of theta_0, under the ticket's own mask."""

    kind: Literal["reinit-all", "reinit-prunable", "layer-shuffle"]
    seed: int = Field(ge=0)


class SavedWeights(Frozen):
    """Weights that another trial kept: its whole model, head included, after one of its steps.

    ``resumed`` is late rewinding: learning rate and order of the data go on at that step, with
    moments at zero (method rule 6). ``inherited`` is no rewinding: a new training begins there.
    """

    kind: Literal["resumed", "inherited"]
    parent: str = Field(description="Key of the trial that kept them.")
    step: int = Field(gt=0, description="Optimizer steps that it had taken.")


Start = Annotated[OtherStart | SavedWeights, Field(discriminator="kind")]


class TrialSpec(Frozen):
    """What one trial is; ``trial_key`` is the sha256 of exactly this."""

    model: ModelIdentity
    task: TaskIdentity
    recipe: Recipe
    seed: int = Field(ge=0, description="Feeds the streams of method rule 3.")
    mask: MaskSource | None = Field(default=None, description="None = dense.")
    start: Start | None = Field(default=None, description="None = theta_0.")
    carry_from: str | None = Field(
        default=None, description="Key of the trial whose head or random streams go on here."
    )
    code_version: int = Field(ge=1, description="Of the trainer; always in the key.")

    @property
    def key(self) -> str:
        """The trial's key: 64 hexadecimal characters."""
        return remembered_key(self)

    @property
    def mask_parent(self) -> TrainedMask | None:
        """The trained mask that must exist before this trial can start, if there is one."""
        mask = self.mask.reference if isinstance(self.mask, RandomLayerwiseMask) else self.mask
        return mask if isinstance(mask, TrainedMask) else None

    @property
    def parents(self) -> tuple[str, ...]:
        """Keys of the trials that must have succeeded before this one can start."""
        mask_parent = self.mask_parent
        keys = [mask_parent.parent] if mask_parent else []
        if self.carry_from:
            keys.append(self.carry_from)
        if self.saved_start:
            keys.append(self.saved_start.parent)
        return tuple(dict.fromkeys(keys))

    @property
    def saved_start(self) -> SavedWeights | None:
        """The kept weights that this trial starts from, if there are any."""
        return self.start if isinstance(self.start, SavedWeights) else None

    @property
    def steps_before(self) -> int:
        """Steps of the recipe that were taken before this trial begins: late rewinding's k."""
        saved = self.saved_start
        return saved.step if saved and saved.kind == "resumed" else 0

    @property
    def num_steps(self) -> int:
        """Optimizer steps that this trial takes."""
        return self.recipe.train_steps - self.steps_before

    @property
    def num_removed(self) -> int:
        """K: weights that this trial's mask removes (0 = dense)."""
        if self.mask is None:
            return 0
        if isinstance(self.mask, RandomLayerwiseMask):
            return self.mask.reference.num_removed
        return self.mask.num_removed


class PruneOutput(Frozen):
    """A mask that a trial shall leave behind, pruned from its trained weights."""

    pruner: PruneMethod
    num_removed: int = Field(gt=0)

    @property
    def artifact(self) -> str:
        """Name of the mask file within the trial's results."""
        return f"mask-{self.pruner}-{self.num_removed}.arrow"


CARRY_ARTIFACT = "carry.safetensors"  # trained head and position in the random streams
INPUT_MASK_ARTIFACT = "mask.arrow"  # the mask that the trial trained under


def weights_artifact(step: int) -> str:
    """Return the name of the file that holds a trial's whole model after a step."""
    return f"weights-step-{step}.safetensors"


class Outputs(Frozen):
    """What a trial shall leave behind beside its scores; not part of its identity."""

    prunes: tuple[PruneOutput, ...] = ()
    carry: bool = False
    input_mask: bool = Field(default=False, description="Keep the mask that it trained under.")
    weights: tuple[int, ...] = Field(
        default=(), description="Steps of the recipe after which the whole model is kept."
    )

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Names of the files that these outputs amount to."""
        names = [prune.artifact for prune in self.prunes]
        names += [CARRY_ARTIFACT] if self.carry else []
        names += [INPUT_MASK_ARTIFACT] if self.input_mask else []
        names += [weights_artifact(step) for step in self.weights]
        return tuple(names)

    def merged(self, other: Outputs) -> Outputs:
        """Return the union of two requests."""
        prunes = {prune.artifact: prune for prune in (*self.prunes, *other.prunes)}
        return Outputs(
            prunes=tuple(prunes[name] for name in sorted(prunes)),
            carry=self.carry or other.carry,
            input_mask=self.input_mask or other.input_mask,
            weights=tuple(sorted({*self.weights, *other.weights})),
        )


Kind = Literal["dense", "round", "final", "control", "transfer"]
# Which one names a trial:
KIND_ORDER: tuple[Kind, ...] = ("dense", "final", "control", "transfer", "round")


class Role(Frozen):
    """Why a sweep wants a trial; one trial may have several roles."""

    kind: Kind
    model: str = Field(description="The model's short name in the sweep.")
    task: str = Field(description="The task's name in the sweep.")
    source_task: str = Field(default="", description="Transfers only: where the mask is from.")
    method: str = Field(default="", description="imp, one-shot-theta0, ... or the control's name.")
    seed: int = Field(description="The replicate: pairs tickets with dense (method rule 4).")
    search_seed: int = Field(description="Seed of the lineage that made the mask.")
    round_index: int | None = Field(default=None, description="Rounds only; 0 is dense.")
    level_index: int | None = Field(default=None, description="Place in the sweep's levels.")
    sparsity: float = Field(default=0.0, ge=0, lt=1, description="K / N.")

    @property
    def label(self) -> str:
        """A short readable name, as the Ray dashboard and the progress display show it."""
        parts = [self.kind, f"{self.source_task}>{self.task}" if self.source_task else self.task]
        parts += [self.method] if self.method else []
        parts += [f"r{self.round_index}"] if self.round_index is not None else []
        parts += [f"{self.sparsity:.3g}"] if self.sparsity else []
        return ":".join([*parts, f"s{self.seed}"])


class Trial(Frozen):
    """A trial within a sweep: its identity, why it is wanted and what it leaves behind."""

    spec: TrialSpec
    roles: tuple[Role, ...]
    outputs: Outputs = Outputs()
    after: tuple[str, ...] = Field(
        default=(), description="Keys of trials that end before, beside the parents."
    )

    @property
    def key(self) -> str:
        """The trial's key."""
        return self.spec.key

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Keys of all trials that must have succeeded before this one starts."""
        return tuple(dict.fromkeys((*self.spec.parents, *self.after)))

    @property
    def kind(self) -> Kind:
        """The role that names the trial: a judged role before a search role."""
        return self.main_role.kind

    @property
    def main_role(self) -> Role:
        """The role whose kind names the trial; the first one of that kind."""
        if len(self.roles) == 1:  # nearly always: a plan asks several times for each trial
            return self.roles[0]
        return min(self.roles, key=lambda role: KIND_ORDER.index(role.kind))
