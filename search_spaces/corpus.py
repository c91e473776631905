"""Read the text of a masked language modelling task, piece by piece, in its order."""

from __future__ import annotations

from pathlib import Path

from search_spaces.errors import Fault, SpecError
from search_spaces.hub import check_columns, load_hub
from search_spaces.inputs import local_path
from search_spaces.places import cache_folder
from search_spaces.tables import read_bytes, read_text
from search_spaces.token_sources import FileWordsSource, TextHubSource, TextSource, WordsSource


def read_corpus(source: WordsSource, split: str) -> list[str]:
    """Return the lines of a file, with their ends, or the texts of a hub split.

    Args:
        source: Where the text is.
        split: ``train`` or ``report``.

    Raises:
        SpecError: The text cannot be had, or there is none.
    """
    if isinstance(source, TextHubSource):
        return _hub_texts(source, source.train if split == "train" else source.report)
    path = text_file(source, split)
    text = read_text(path, source.encoding)
    if not text.strip():
        raise _fault(str(path), "holds no text.", "Give a file with text to learn from.")
    return text.splitlines(keepends=True)


def text_file(source: FileWordsSource, split: str) -> Path:
    """Return the file of a split; that of a builtin text is made if it is not there."""
    if isinstance(source, TextSource):
        return local_path(source.train if split == "train" else source.report)
    from search_spaces import docstrings

    return docstrings.write_text(built_docstrings(), "train" if split == "train" else "dev")


def built_docstrings() -> Path:
    """Return the folder of the embedded data set, which is built if it is not there.

    Raises:
        SpecError: It cannot be built from what is installed.
    """
    from search_spaces import docstrings  # parses installed sources: only for this data set

    try:
        return docstrings.build(cache_folder() / "docstrings")
    except docstrings.DocstringsError as error:
        raise SpecError([Fault("builtin task 'docstrings'", "", f"{error}.")]) from error


def check_apart(train: Path, report: Path) -> None:
    """Refuse files that hold the same examples.

    Raises:
        SpecError: They do, or one cannot be read.
    """
    if train.resolve() == report.resolve() or read_bytes(train) == read_bytes(report):
        problem = f"holds the same examples as the train file, {train}: results would be memorised."
        raise _fault(str(report), problem, "Give held-out examples as report.")


def _hub_texts(source: TextHubSource, split: str) -> list[str]:
    place = f"{source.repository} {split}"
    hint = "Check repository, config, revision and network, or give text files: kind: text."
    rows = load_hub(source.repository, source.config, split, source.revision, place, hint)
    check_columns(rows, [source.text], place)
    texts = list(rows[source.text])
    wrong = next((row for row, text in enumerate(texts, 1) if not isinstance(text, str)), None)
    if wrong is not None:
        found = type(texts[wrong - 1]).__name__
        problem = f"row {wrong}: column '{source.text}' holds {found}, but must hold text."
        raise _fault(place, problem, f"Columns found: {', '.join(rows.column_names)}.")
    if not any(text.strip() for text in texts):
        raise _fault(place, "holds no text.", "Check the split's name and the column.")
    return texts


def _fault(place: str, problem: str, hint: str) -> SpecError:
    return SpecError([Fault(place, "", problem, hint)])
