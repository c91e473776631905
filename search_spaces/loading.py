"""Read sweep.yaml: every fault in it is reported at once, in plain sentences."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from search_spaces.errors import Fault, SpecError, did_you_mean
from search_spaces.messages import faults_of
from search_spaces.sweep import SweepSpec

_MOST_VALUES = 100_000  # aliases counted as often as they are named
_MOST_LEVELS = 64  # of lists and mappings in each other, aliases followed
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")


def load_sweep(path: Path | str) -> SweepSpec:
    """Return the sweep that a YAML file describes.

    Args:
        path: The file. ``${NAME}`` in text values is replaced from the environment.

    Raises:
        SpecError: Everything that is wrong with the file.
    """
    return parse_sweep(_read(Path(path)), str(path))


def parse_sweep(text: str, place: str = "sweep") -> SweepSpec:
    """Return the sweep that YAML text describes.

    Args:
        text: YAML.
        place: What faults are shown under, for example the file's name.

    Raises:
        SpecError: Everything that is wrong with the text.
    """
    faults: list[Fault] = []
    data = _parse_yaml(text, place, faults)
    if not isinstance(data, Mapping):
        raise SpecError([Fault(place, "", "holds no fields.", "Start with 'name: my-sweep'.")])
    data = _expand_variables(data, "", place, faults)
    try:
        spec = SweepSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError([*faults, *faults_of(error, SweepSpec, place)]) from None
    if faults:
        raise SpecError(faults)
    return spec


def show(spec: SweepSpec) -> str:
    """Return a sweep as YAML with presets and defaults filled in.

    Reading it again gives a sweep with the same trials.
    """
    data = spec.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path()
        near = did_you_mean(path.name, [entry.name for entry in folder.iterdir()])
        raise SpecError([Fault(str(path), "", "does not exist.", near)]) from None
    except UnicodeDecodeError:
        raise SpecError([Fault(str(path), "", "is not UTF-8 text.", "Save it as UTF-8.")]) from None
    except OSError as error:
        problem = f"cannot be read: {error.strerror}."
        raise SpecError([Fault(str(path), "", problem)]) from None


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that notes keys written twice instead of dropping the first.

    It gives up below ``_MOST_LEVELS``, long before Python's own limit, which libraries change.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[tuple[str, int]] = []
        self._num_open = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node and all that is in it.

        Raises:
            RecursionError: It lies too deep.
        """
        self._num_open += 1
        if self._num_open > _MOST_LEVELS:
            raise RecursionError
        node = super().compose_node(parent, index)
        self._num_open -= 1
        return node


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen and name != "<<":
            loader.duplicates.append((name, key.start_mark.line + 1))
        seen.add(name)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _parse_yaml(text: str, place: str, faults: list[Fault]) -> Any:
    try:
        loader = _Loader(text)  # looks for characters that no YAML may hold
        node = loader.get_single_node()
        _refuse_explosion(node, place)
        data = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise SpecError([_syntax_fault(error, place)]) from None
    except (ValueError, OverflowError) as error:  # as of a date or number that there is not
        problem = f"holds a value that cannot be: {str(error).splitlines()[0]}."
        raise SpecError([Fault(place, "", problem, "Write it in quotes if it is text.")]) from None
    except RecursionError:
        problem = f"is nested too deeply: more than {_MOST_LEVELS} levels."
        raise SpecError([Fault(place, "", problem, "No sweep is.")]) from None
    faults += [
        Fault(place, name, f"is written again in line {line}.", "Keep one of the two.")
        for name, line in loader.duplicates
    ]
    return data


def _refuse_explosion(root: yaml.Node | None, place: str) -> None:
    """Raise a SpecError when aliases make a small file a huge or endless one.

    Raises:
        RecursionError: They make it a deep one.
    """
    sizes: dict[int, int] = {}
    levels: dict[int, int] = {}
    inside: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in inside:
            return _MOST_VALUES + 1
        if id(node) not in sizes:
            inside.add(id(node))
            pairs = node.value if isinstance(node, yaml.CollectionNode) else []
            flat = [
                part for pair in pairs for part in (pair if isinstance(pair, tuple) else [pair])
            ]
            sizes[id(node)] = 1 + sum(map(size, flat))
            levels[id(node)] = 1 + max((levels.get(id(part), 0) for part in flat), default=0)
            inside.discard(id(node))
        return sizes[id(node)]

    if root is not None and size(root) > _MOST_VALUES:
        problem = f"has more than {_MOST_VALUES:,} values, or one that holds itself."
        raise SpecError([Fault(place, "", problem, "Look at its anchors (&) and aliases (*).")])
    if root is not None and levels[id(root)] > _MOST_LEVELS:
        raise RecursionError


def _syntax_fault(error: yaml.YAMLError, place: str) -> Fault:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return Fault(place, "", f"{where}is no YAML: {problem}.", "Check indentation and quotes.")


def _expand_variables(value: Any, field: str, place: str, faults: list[Fault]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _expand_variables(item, f"{field}.{key}" if field else str(key), place, faults)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            _expand_variables(item, f"{field}[{index}]", place, faults)
            for index, item in enumerate(value)
        ]
    return _expand_text(value, field, place, faults) if isinstance(value, str) else value


def _expand_text(text: str, field: str, place: str, faults: list[Fault]) -> str:
    for name in dict.fromkeys(_VARIABLE.findall(text)):
        if name not in os.environ:
            problem = f"uses ${{{name}}}, but the environment has no {name}."
            faults.append(Fault(place, field, problem, f"Run: export {name}=..."))
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text)
