"""A task as a sweep writes it, and which of its splits chooses and is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from search_spaces.canonical import Frozen
from search_spaces.recipe_specs import RecipeSpec, SearchRecipeSpec, merge_recipes
from search_spaces.run_specs import TaskResources
from search_spaces.splits import AnySelectRule, HashSelect, ReportSelect, SelectRule
from search_spaces.tasks import AnyTaskSource, TaskSource, report_splits

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class TaskSpec(Frozen):
    """A task of a sweep."""

    name: str = Field(pattern=NAME_PATTERN, description="Short name in the sweep.")
    source: TaskSource
    train_examples: int | None = Field(default=None, gt=0, description="Default: all.")
    max_length: int = Field(default=128, gt=2, description="Tokens.")
    select: SelectRule | None = Field(default=None, description="Instead of splits.select.")
    delta: float | None = Field(default=None, gt=0, lt=1, description="Instead of verdict.delta.")
    recipe: RecipeSpec | None = Field(
        default=None, description="Fields that differ from the sweep's recipes."
    )
    search_recipe: SearchRecipeSpec | None = Field(
        default=None, description="Fields that differ from the sweep's search recipe only."
    )
    resources: TaskResources | None = Field(
        default=None, description="Fields that differ from the sweep's resources."
    )

    @field_validator("select", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return _with_kind(value)

    @field_validator("select")
    @classmethod
    def _has_select_split(
        cls, rule: AnySelectRule | None, info: ValidationInfo
    ) -> AnySelectRule | None:
        if rule is not None and "source" in info.data:
            check_select(rule, info.data["source"], info.data.get("name", ""))
        return rule


class SplitsSpec(Frozen):
    """Which split chooses, and which is reported (method rule 14)."""

    select: SelectRule = HashSelect()
    report: Literal["matched", "mismatched"] = Field(
        default="matched", description="For tasks that have both (MNLI)."
    )

    @field_validator("select", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return _with_kind(value)


def _with_kind(value: Any) -> Any:
    """Return the long form of a select rule: ``report`` stands for ``{kind: report}``."""
    return {"kind": value} if isinstance(value, str) else value


def check_select(rule: AnySelectRule, source: AnyTaskSource, task: str) -> None:
    """Check that a task has the split that its select rule names.

    Raises:
        ValueError: It has not.
    """
    known = report_splits(source)
    if isinstance(rule, ReportSelect) and rule.split not in known:
        raise ValueError(
            f"has select.split '{rule.split}', but the task '{task}' has only "
            f"{', '.join(known)}: write another select beside that task"
        )


def with_recipes(task: Any, recipe: Any, search: Any) -> Any:
    """Complete a task's partial recipes from the sweep's; rounds follow the final recipe."""
    if not isinstance(task, Mapping):
        return task
    filled, own, own_search = dict(task), task.get("recipe"), task.get("search_recipe")
    if own is not None:
        filled["recipe"] = merge_recipes(recipe, own)
    base = merge_recipes(search if search is not None else recipe, own or {})
    if own_search is not None:
        filled["search_recipe"] = merge_recipes(base, own_search)
    elif own is not None and search is not None:
        filled["search_recipe"] = base
    return filled
