"""Where the examples of tasks come from that are made of tokens: words to guess, and answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from search_spaces.canonical import Frozen

SQUAD_REPOSITORY = "rajpurkar/squad"
SQUAD_CONFIG = "plain_text"
SQUAD_REVISION = "7b6d24c440a36b6815f21b70d25016731768db1f"


class MaskedWords(Frozen):
    """How words are hidden in masked language modelling (Devlin et al. 2019, section 3.1)."""

    mask_probability: float = Field(
        default=0.15, gt=0, lt=1, description="Share of the tokens to be guessed."
    )


class TextSource(MaskedWords):
    """Masked language modelling on the user's own text files."""

    kind: Literal["text"] = "text"
    train: str = Field(description="File to train on (and to hold out the select split from).")
    report: str = Field(description="File that results are reported on.")
    encoding: str = "utf-8"


class BuiltinWordsSource(MaskedWords):
    """Masked language modelling on text that the installed packages bring along."""

    kind: Literal["builtin-words"] = "builtin-words"
    name: Literal["docstrings"] = Field(
        default="docstrings", description="The sentences of the builtin task of that name."
    )

    @property
    def encoding(self) -> str:
        """The text's encoding."""
        return "utf-8"


class TextHubSource(MaskedWords):
    """Masked language modelling on a text column of a hub repository, at a pinned revision."""

    kind: Literal["text-hub"] = "text-hub"
    repository: str = Field(min_length=1, description="For example 'Salesforce/wikitext'.")
    config: str | None = Field(default=None, description="For example 'wikitext-103-raw-v1'.")
    revision: str = Field(pattern="^[0-9a-f]{40}$", description="Commit: 40 hex digits.")
    text: str = Field(default="text", description="Column of the text.")
    train: str = Field(default="train", description="Name of the split to train on.")
    report: str = Field(default="validation", description="Name of the split to report on.")


class Answers(Frozen):
    """How contexts are cut into windows, and answers are read from them (run_squad.py)."""

    doc_stride: int = Field(default=128, ge=1, description="Tokens between windows' beginnings.")
    max_query_length: int = Field(default=64, ge=1, description="Tokens of a question.")
    max_answer_length: int = Field(default=30, ge=1, description="Tokens of an answer.")
    num_best: int = Field(default=20, ge=1, description="Starts and ends tried in a window.")


class SquadSource(Answers):
    """Question answering on files in the format of SQuAD v1.1."""

    kind: Literal["squad"] = "squad"
    train: str = Field(description="JSON file to train on, for example train-v1.1.json.")
    report: str = Field(description="JSON file to report on, for example dev-v1.1.json.")


class SquadHubSource(Answers):
    """SQuAD v1.1 from the Hugging Face hub, at a pinned revision."""

    kind: Literal["squad-hub"] = "squad-hub"
    revision: str = Field(
        default=SQUAD_REVISION, pattern="^[0-9a-f]{40}$", description="Commit: 40 hex digits."
    )


FileWordsSource = TextSource | BuiltinWordsSource
WordsSource = FileWordsSource | TextHubSource
AnswersSource = SquadSource | SquadHubSource
TokenSource = WordsSource | AnswersSource
