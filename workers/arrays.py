"""Parameters as fp32 arrays, one at a time: a large model is never copied as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


def as_tensors(arrays: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, torch.Tensor]:
    """Return arrays as tensors that share their memory; never to be written."""
    with warnings.catch_warnings():  # torch knows no read-only tensors
        warnings.simplefilter("ignore", UserWarning)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class ParameterArrays(Mapping[str, npt.NDArray[np.float32]]):
    """fp32 values of parameters by name, each made anew whenever it is asked for.

    Keep no more of them than needed. Where nothing had to be converted, an array is a view of the
    model, valid until the next step.

    Args:
        parameters: By name.
        values_of: Returns the values of a parameter; by default what the model computes with.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        values_of: Callable[[nn.Parameter], torch.Tensor] = nn.Parameter.detach,
    ) -> None:
        self._parameters, self._values_of = parameters, values_of

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        return self._values_of(self._parameters[name]).float().cpu().numpy()

    def __contains__(self, name: object) -> bool:
        return name in self._parameters  # without making it

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


class Either(Mapping[str, npt.NDArray[np.float32]]):
    """Arrays of two mappings that share no name, none of them made before it is asked for."""

    def __init__(
        self,
        first: Mapping[str, npt.NDArray[np.float32]],
        second: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        self._parts = (first, second)

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        first, second = self._parts
        return first[name] if name in first else second[name]

    def __contains__(self, name: object) -> bool:
        return any(name in part for part in self._parts)

    def __iter__(self) -> Iterator[str]:
        return (name for part in self._parts for name in part)

    def __len__(self) -> int:
        return sum(map(len, self._parts))
