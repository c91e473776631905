"""Make the embedded data set: which installed library does this sentence document?

The sentences are the English docstrings of libraries that the project's own pins install, so the
data set needs no download and no licence of its own, and is the same wherever the pins are the
same. Sources are parsed with `ast`; no library is imported.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

# Label (= package to import) -> name to `pip install`.
DISTRIBUTIONS = {
    "mlflow": "mlflow",
    "pandas": "pandas",
    "ray": "ray",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "transformers": "transformers",
}
PLACEHOLDER = "library"
RULES_VERSION = 2  # raise it whenever a rule below changes which rows come out
MIN_WORDS, MAX_WORDS = 6, 40
NUM_PER_CLASS = {"train": 1000, "dev": 250}  # at most; classes are always equally large
DEV_SHARE = 5  # one text in five falls into dev, by its hash
# Bounds on parsing (all of torch alone takes 11 s): files of one library, chosen by hash.
MAX_FILES = 700
MAX_FILE_BYTES = 100_000

SKIPPED_FOLDERS = frozenset(
    {"tests", "test", "testing", "_testing", "_vendor", "vendor", "thirdparty", "externals"}
    | {"thirdparty_files", "protos", "cloudpickle", "serialized_patterns", "__pycache__"}
)
_SKIPPED_FILE = re.compile(r"(test_.*|.*_pb2(_grpc)?|conftest)\.py$")
_GENERATED = re.compile(rb"auto(matically|-| )?generated|do not edit", re.IGNORECASE)

# `ray` must stand alone or head a CamelCase word, or every "array" would be hit.
_NAMES = re.compile(
    r"(?<![\w./-])[\w./-]*(?:torch|mlflow|sklearn|scikit|pandas|transformers|hugging[\s_-]?face"
    r"|rllib|databricks|anyscale)(?:[\w./-]*\w)?"
    r"|(?<![A-Za-z])(?:ray(?:let|ify|sgd|dp)?s?|pd|hf)(?![A-Za-z])(?:[\w./-]*\w)?",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"\b\w*?(?<![A-Z])(?:Ray|Hf|HF)(?=[A-Z])\w*|\w*(?<=[a-z])(?:Ray|HF)\b")

_MARKUP = (
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # Markdown link
    (re.compile(r"`([^`<]+?)\s*<[^>]*>`_{0,2}"), r"\1"),  # reST link
    (re.compile(r"https?://\S+"), " "),
    (re.compile(r":[\w:+-]+:`[~!]?([^`]*)`"), r"\1"),  # reST role
    (re.compile(r"`+|\*{1,2}(?=\S)|(?<=\S)\*{1,2}|[=~^\-]{4,}|\|(?=\w)|(?<=\w)\|"), ""),
    (re.compile(r"</?\w+[^>]*>"), " "),
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NOT_PROSE = re.compile(r"\s*(\.\.|>>>|:\w+|@|[\w.]+\([^)]*\)\s*(->|$))")


class DocstringsError(ValueError):
    """The data set cannot be built from what is installed."""


def build(folder: Path, libraries: Mapping[str, Path] | None = None) -> Path:
    """Write train.jsonl, dev.jsonl and SOURCE.json into `folder`, unless they are there already.

    Rows are `{"label": <library>, "text": <sentence>}`, in an order fixed by hashes. SOURCE.json
    is written last with the sha256 of the other two; otherwise the folder does not count as built.

    Args:
        folder: where the files go; made if missing.
        libraries: label -> folder with sources; default: the six installed libraries.

    Returns:
        `folder`.

    Raises:
        DocstringsError: libraries are not installed, or one yields no usable sentence.
    """
    if libraries is None:
        libraries = installed_libraries()
        versions = {n: importlib.metadata.version(DISTRIBUTIONS[n]) for n in libraries}
    else:
        versions = {name: _fingerprint(root) for name, root in libraries.items()}
    made_from = {"rules_version": RULES_VERSION, "libraries": dict(sorted(versions.items()))}
    if _is_built(folder, made_from):
        return folder
    splits = _balanced(_distinct(libraries), sorted(libraries))
    payloads = {f"{name}.jsonl": _encode(rows) for name, rows in splits.items()}
    source = made_from | {
        "num_rows": {name: len(rows) for name, rows in splits.items()},
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in payloads.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in payloads.items():
        _publish(folder / name, data)
    _publish(folder / "SOURCE.json", (json.dumps(source, indent=1) + "\n").encode())
    return folder


def write_text(folder: Path, split: str) -> Path:
    """Write a split's sentences, one a line, as running text without labels; return the file.

    Args:
        folder: A built data set.
        split: "train" or "dev".
    """
    rows = (folder / f"{split}.jsonl").read_text().splitlines()
    text = "".join(f"{json.loads(row)['text']}\n" for row in rows)
    path = folder / f"{split}.txt"
    if not path.exists() or path.read_text() != text:
        _publish(path, text.encode())
    return path


def installed_libraries() -> dict[str, Path]:
    """Return label -> folder of each installed library, without importing any.

    Raises:
        DocstringsError: some are missing; names them and the `pip install` that helps.
    """
    found: dict[str, Path] = {}
    for name in DISTRIBUTIONS:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:  # a bare namespace folder has no origin
            found[name] = Path(spec.origin).parent
    if missing := [name for name in DISTRIBUTIONS if name not in found]:
        needed = " ".join(DISTRIBUTIONS[name] for name in missing)
        raise DocstringsError(
            f"the embedded data set reads the docstrings of {', '.join(DISTRIBUTIONS)}, "
            f"but not installed: {', '.join(missing)}. Run: pip install {needed}"
        )
    return found


def clean(docstring: str) -> str | None:
    """Return the first paragraph as one plain line without library names, or None if unusable."""
    paragraph = re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0]
    if _NOT_PROSE.match(paragraph):
        return None
    text = " ".join(paragraph.split())
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = _NAMES.sub(PLACEHOLDER, _CAMEL.sub(PLACEHOLDER, text))
    words = text.split()
    return " ".join(words) if MIN_WORDS <= len(words) <= MAX_WORDS else None


def _distinct(libraries: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Return hash -> (label, text) without texts that stand in two libraries: no right answer."""
    labels: defaultdict[str, set[str]] = defaultdict(set)
    texts: dict[str, str] = {}
    for name, root in sorted(libraries.items()):
        for docstring in _docstrings(root):
            if (text := clean(docstring)) is not None:
                key = _hash("text", " ".join(re.findall(r"\w+", text.casefold())))
                labels[key].add(name)
                texts.setdefault(key, text)
    return {
        key: (min(names), texts[key]) for key, names in sorted(labels.items()) if len(names) == 1
    }


def _balanced(
    distinct: Mapping[str, tuple[str, str]], names: list[str]
) -> dict[str, list[tuple[str, str]]]:
    """Split by hash of the text alone, then keep equally many of each class in hash order."""
    by_class: dict[str, dict[str, list[str]]] = {
        split: {name: [] for name in names} for split in NUM_PER_CLASS
    }
    for key, (name, _) in distinct.items():
        split = "dev" if int(key, 16) % DEV_SHARE == 0 else "train"
        by_class[split][name].append(key)
    splits = {}
    for split, keys in by_class.items():
        _refuse_empty(split, keys)
        num = min(NUM_PER_CLASS[split], *(len(k) for k in keys.values()))
        chosen = sorted(key for k in keys.values() for key in k[:num])
        splits[split] = [distinct[key] for key in chosen]
    return splits


def _refuse_empty(split: str, keys: Mapping[str, list[str]]) -> None:
    if empty := [name for name, found in keys.items() if not found]:
        raise DocstringsError(
            f"no usable docstring for split '{split}' in: {', '.join(empty)}. Their sources must "
            f"lie as .py files where they are installed; reinstall them with pip"
        )


def _docstrings(root: Path) -> Iterator[str]:
    """Yield the docstrings of every module, class and function, file by file."""
    for path in _sources(root):
        data = path.read_bytes()
        if len(data) > MAX_FILE_BYTES or _GENERATED.search(data, 0, 2000):
            continue
        try:
            tree = ast.parse(data)
        except SyntaxError:  # templates, and files for other Python versions
            continue
        yield from _of_tree(tree)


def _of_tree(tree: ast.Module) -> Iterator[str]:
    # Statements only: `ast.walk` also visits every expression, three times the work.
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield docstring
        nodes += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]


def _sources(root: Path) -> list[Path]:
    """Return at most MAX_FILES hand-written source files, chosen by the hash of their names."""
    kept = {}
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.isdisjoint(relative.parts) and not _SKIPPED_FILE.match(path.name):
            kept[_hash("file", relative.as_posix())] = path
    return [kept[key] for key in sorted(kept)[:MAX_FILES]]


def _hash(purpose: str, text: str) -> str:
    # Salted: whoever later cuts train by an unsalted hash of the text must get a fair share of it.
    return hashlib.sha256(f"docstrings {purpose}\0{text}".encode()).hexdigest()


def _fingerprint(root: Path) -> str:
    digest = hashlib.sha256()
    for path in _sources(root):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _encode(rows: list[tuple[str, str]]) -> bytes:
    lines = (json.dumps({"label": n, "text": t}, ensure_ascii=False) + "\n" for n, t in rows)
    return "".join(lines).encode("utf-8", errors="replace")


def _is_built(folder: Path, made_from: Mapping[str, object]) -> bool:
    """Whether `folder` holds whole files made by these rules from these libraries."""
    try:
        source = json.loads((folder / "SOURCE.json").read_bytes())
        hashes = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in source["sha256"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(hashes == source["sha256"] and made_from.items() <= source.items())


def _publish(path: Path, data: bytes) -> None:
    """Write aside, then rename, so that a reader never sees half a file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)
