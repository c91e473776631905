"""What a result says of how exactly it can be had again: its proof and its numerics class."""

from __future__ import annotations

from pydantic import Field

from search_spaces.canonical import Frozen


class Proof(Frozen):
    """What a trial proved about itself, bit by bit (method rule 7)."""

    num_start_tensors_equal_theta0: int = Field(
        description="Backbone tensors whose masters equalled theta_0 x mask bit for bit; in a "
        "control with another start, that start x mask."
    )
    num_masked_zero_in_model: int = Field(description="Masked weights, all +0.0 after training.")
    num_masked_zero_in_masters: int = Field(description="The same in the fp32 masters.")


class NumericsClass(Frozen):
    """Bit equality is promised only within one of these (method rule 22)."""

    device: str = Field(description="'cpu' or the GPU's name.")
    dtype: str
    layout: str = Field(description="'unpadded' or 'padded'.")
    num_ranks: int
    micro_batch_size: int
    num_threads: int
    versions: dict[str, str] = Field(description="Of torch, transformers and deepspeed.")

    def difference(self, other: NumericsClass) -> str:
        """Return in what another class differs, for people; "" where it is the same."""
        ours, theirs = self.model_dump(), other.model_dump()
        return ", ".join(
            f"{name} {ours[name]!r} instead of {theirs[name]!r}"
            for name in ours
            if ours[name] != theirs[name]
        )
