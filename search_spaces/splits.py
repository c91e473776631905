"""Hold a select split out of train, and fix training subsets, both by hash (method rule 14)."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from search_spaces.canonical import Frozen
from search_spaces.contracts import TaskPlace
from search_spaces.datafiles import data_sha256, read_task
from search_spaces.errors import Fault, SpecError
from search_spaces.examples import Examples
from search_spaces.tasks import LabelledSource, task_source

TASK = "task"  # stands in faults for the task's name, which the caller knows
_PAIR_SEPARATOR = "\x1f"  # a control character: no sentence holds it after normalisation


class HashSelect(Frozen):
    """Hold out a share of train by the hash of the text; the same for every seed."""

    kind: Literal["hash"] = "hash"
    fraction: float = Field(default=0.1, gt=0, lt=1, description="Share of train.")
    max_examples: int = Field(default=2000, ge=1, description="At most so many.")


class ReportSelect(Frozen):
    """Choose on the report split itself, as Chen et al. 2020 did; labelled ``same_split``."""

    kind: Literal["report"] = "report"
    split: Literal["report", "report_mismatched"] = Field(
        default="report", description="report: the one that splits.report names."
    )


AnySelectRule = HashSelect | ReportSelect
SelectRule = Annotated[AnySelectRule, Field(discriminator="kind")]
_RULE: TypeAdapter[AnySelectRule] = TypeAdapter(SelectRule)


def select_rule(data: Mapping[str, Any]) -> AnySelectRule:
    """Return the rule that plain data describe, as ``TaskPlace.select`` holds them.

    Raises:
        pydantic.ValidationError: The data describe no rule.
    """
    return _RULE.validate_python(data)


def text_hashes(examples: Examples) -> list[bytes]:
    """Return the sha256 of each example's normalised text.

    Normalised: NFKC, lower case, white space collapsed; a pair is joined by U+001F. Examples
    with equal hashes count as duplicates, whatever their labels.
    """
    texts = [_normalised(text) for text in examples.texts]
    if examples.pairs is not None:
        pairs = map(_normalised, examples.pairs)
        texts = [f"{text}{_PAIR_SEPARATOR}{pair}" for text, pair in zip(texts, pairs, strict=True)]
    return [hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in texts]


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def make_splits(
    train: Examples, rule: AnySelectRule, num_train_examples: int | None
) -> tuple[list[int], list[int]]:
    """Return the indices to train on and those held out for selection, both ascending.

    Args:
        train: The task's whole train split.
        rule: How the select split is held out; nothing is for ``ReportSelect``.
        num_train_examples: Examples to train on, chosen by another hash; None = all that remain.

    Returns:
        ``(train_indices, select_indices)``; no text stands in both.

    Raises:
        SpecError: Too few examples to hold any out, or fewer than asked for remain.
    """
    return split_hashes(text_hashes(train), rule, num_train_examples)


def split_hashes(
    hashes: list[bytes], rule: AnySelectRule, num_train_examples: int | None
) -> tuple[list[int], list[int]]:
    """Return what ``make_splits`` returns, from the examples' hashes: equal ones stay together."""
    select = _held_out(hashes, rule) if isinstance(rule, HashSelect) else []
    held_out = set(select)
    rest = [index for index in range(len(hashes)) if index not in held_out]
    if not rest:
        problem = f"has {len(hashes)} examples, and holding out a select split leaves none."
        raise SpecError([Fault(TASK, "train", problem, "Use more examples.")])
    return _subset(rest, hashes, num_train_examples), sorted(select)


def _held_out(hashes: list[bytes], rule: HashSelect) -> list[int]:
    """Return indices of whole groups of duplicates, in hash order, up to the rule's number."""
    share = int(len(hashes) * Fraction(str(rule.fraction)))
    wanted = min(share, rule.max_examples)
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(hashes):
        groups[digest].append(index)
    chosen: list[int] = []
    for digest in _salted_order(list(groups), "select"):
        # A group that does not fit is left to train, so the size never exceeds the rule.
        if len(chosen) + len(groups[digest]) <= wanted:
            chosen += groups[digest]
    if not chosen:
        problem = f"has {len(hashes)} examples, too few to hold out {rule.fraction} of them."
        raise SpecError([Fault(TASK, "train", problem, "Use more examples.")])
    return chosen


def _salted_order(digests: list[bytes], salt: str) -> list[bytes]:
    return sorted(digests, key=lambda digest: hashlib.sha256(salt.encode() + digest).digest())


def _subset(rest: list[int], hashes: list[bytes], num: int | None) -> list[int]:
    if num is None or num == len(rest):
        return rest
    if num > len(rest):
        problem = f"is {num}, but only {len(rest)} remain after the select split is held out."
        raise SpecError([Fault(TASK, "train_examples", problem, "Use fewer, or leave it out.")])
    order = {d: i for i, d in enumerate(_salted_order([hashes[i] for i in rest], "train"))}
    return sorted(sorted(rest, key=lambda index: (order[hashes[index]], index))[:num])


def load_splits(
    place: TaskPlace, num_train_examples: int | None, expected_sha256: str | None = None
) -> dict[str, Examples]:
    """Return the examples of a task, split as a trial needs them.

    Args:
        place: Where the data are and how they are read and split.
        num_train_examples: As in ``TaskIdentity``; None = all.
        expected_sha256: ``TaskIdentity.data_sha256``, to refuse data that changed since.

    Returns:
        ``train``, ``select``, ``report`` and, for MNLI, ``report_mismatched``. Under
        ``ReportSelect`` the select split *is* the report split (the same object).

    Raises:
        SpecError: The data are faulty, too few or not the expected ones.
    """
    source, rule = task_source(place.source), select_rule(place.select)
    if expected_sha256 is not None:
        check_unchanged(place.name, data_sha256(source), expected_sha256)
    assert isinstance(source, LabelledSource), "tasks made of tokens have a module of their own"
    splits = read_task(source).splits
    train, select = make_splits(splits["train"], rule, num_train_examples)
    whole = splits["train"]
    chosen = splits[rule.split] if isinstance(rule, ReportSelect) else whole.take(select)
    return {**splits, "train": whole.take(train), "select": chosen}


def check_unchanged(name: str, found: str, expected: str) -> None:
    """Refuse data that are not those that a trial was planned with.

    Args:
        name: The task's.
        found: The data's sha256 now.
        expected: The planned one.

    Raises:
        SpecError: They differ.
    """
    if found != expected:
        problem = f"data have sha256 {found[:12]}, but the trial was planned with {expected[:12]}."
        hint = "The files changed, or this machine has other ones: plan the sweep again."
        raise SpecError([Fault(f"task '{name}'", "", problem, hint)])
