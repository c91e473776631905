"""What a result says of the masks that it leaves, and of what it proved about itself."""

from __future__ import annotations

from pydantic import Field

from search_spaces.canonical import Frozen


class MaskInfo(Frozen):
    """What a mask is, without its bits."""

    sha256: str = Field(description="Of the prunable set and the packed bits.")
    num_weights: int = Field(description="N.")
    num_removed: int = Field(description="K.")
    num_ties: int = Field(default=0, description="Weights equal to the threshold.")
    kept_per_matrix: dict[str, int] = Field(description="Weights kept, by canonical name.")
    sparsity_per_matrix: dict[str, float] = Field(description="By canonical name.")
    collapsed: tuple[str, ...] = Field(
        default=(), description="Matrices left with under 1% of their weights."
    )

    @property
    def sparsity(self) -> float:
        """K / N."""
        return self.num_removed / self.num_weights


class Proof(Frozen):
    """What a trial proved about itself, bit by bit (method rule 7)."""

    num_start_tensors_equal_theta0: int = Field(
        description="Backbone tensors whose masters equalled theta_0 x mask bit for bit; in a "
        "control with another start, that start x mask."
    )
    num_masked_zero_in_model: int = Field(description="Masked weights, all +0.0 after training.")
    num_masked_zero_in_masters: int = Field(description="The same in the fp32 masters.")
