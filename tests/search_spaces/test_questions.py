"""Questions are read in SQuAD's format, split by context and cut into windows."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.errors import SpecError
from search_spaces.questions import read_questions
from search_spaces.splits import HashSelect
from search_spaces.token_data import question_splits
from search_spaces.token_sources import SquadSource
from search_spaces.windows import _spans
from tests.workers.token_tasks import write_squad


def test_questions_of_a_context_stay_together(tmp_path: Path) -> None:
    source = SquadSource.model_validate(write_squad(tmp_path))
    splits = question_splits(source, HashSelect(fraction=0.3), None)
    contexts = {name: {q.context for q in splits[name]} for name in ("train", "select")}
    assert not contexts["train"] & contexts["select"]
    assert len(splits["train"]) + len(splits["select"]) == len(read_questions(source, "train"))


@given(num=st.integers(0, 60), room=st.integers(1, 20), stride=st.integers(1, 30))
def test_windows_leave_no_token_out(num: int, room: int, stride: int) -> None:
    spans = list(_spans(num, room, min(room, stride)))
    assert {i for begin, end in spans for i in range(begin, end)} == set(range(num))
    assert all(0 <= end - begin <= room for begin, end in spans)
    assert spans[-1][1] == num and all(end < num for _, end in spans[:-1])


def changed_squad(tmp_path: Path, change: Any) -> list[str]:
    """Return the faults of a source whose train file was changed, without the file's name."""
    source = write_squad(tmp_path, num_contexts=12)
    path = Path(source["train"])
    data = copy.deepcopy(json.loads(path.read_text()))
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(SpecError) as error:
        read_questions(SquadSource.model_validate(source), "train")
    return [str(fault).removeprefix(f"{path}: ") for fault in error.value.faults]


def first_question(data: Any) -> Any:
    return data["data"][0]["paragraphs"][0]["qas"][0]


def moved(data: Any, start: int) -> None:
    first_question(data)["answers"][0].update(answer_start=start)


def test_answers_must_stand_where_the_file_says(tmp_path: Path) -> None:
    """Not elsewhere, not outside; the message names question, place and what stands there."""
    (found,) = changed_squad(
        tmp_path, lambda d: first_question(d)["answers"][0].update(answer_start=0)
    )
    assert found.startswith("question '1-0-0': the answer '")
    assert "' must stand at answer_start 0 of its context of " in found
    assert found.endswith("'. Count characters, not bytes, from 0.")
    for start in (9999, -4):
        (found,) = changed_squad(
            tmp_path, lambda d, s=start: first_question(d)["answers"][0].update(answer_start=s)
        )
        assert (
            f"at answer_start {start} of its context" in found and "there stands nothing" in found
        )


def test_many_faults_are_counted(tmp_path: Path) -> None:
    def empty_all(data: Any) -> None:
        for article in data["data"]:
            for row in article["paragraphs"][0]["qas"]:
                row["question"] = " "

    found = changed_squad(tmp_path, empty_all)
    assert found[0] == "question '1-0-0': is empty. Remove it, or write its text."
    assert len(found) == 11 and found[-1] == "has 14 more faults like these."


def test_other_formats_are_refused(tmp_path: Path) -> None:
    def impossible(data: Any) -> None:
        first_question(data).update(is_impossible=True, answers=[])

    assert changed_squad(tmp_path, impossible) == [
        "is in the format of SQuAD v2, where questions may have no answer (is_impossible: 1 "
        "here), but v1.1 is needed. Give the file of SQuAD v1.1."
    ]
    assert "SQuAD v2" in changed_squad(tmp_path, lambda d: d.update(version="v2.0"))[0]
    (found,) = changed_squad(tmp_path, lambda d: first_question(d).update(answers=[]))
    assert found == "question '1-0-0': has no answers, but must have at least one. Remove it."
    must = "It must hold data > paragraphs > context, qas > id, question, answers."
    for change, text in (
        (lambda d: d.pop("data"), "it lacks 'data'"),
        (lambda d: first_question(d).pop("id"), "it lacks 'id'"),
        (lambda d: first_question(d).update(question=3), "3 stands where text must be"),
        (
            lambda d: first_question(d)["answers"][0].update(answer_start="4"),
            "answer_start is '4', but must be a whole number",
        ),
    ):
        assert changed_squad(tmp_path, change) == [
            f"is not in the format of SQuAD v1.1: {text}. {must}"
        ]
    (found,) = changed_squad(tmp_path, lambda d: d.update(data=[]))
    assert found == "holds no questions. A split needs at least one."
    source = write_squad(tmp_path)
    Path(source["train"]).write_text("[1, 2]")
    with pytest.raises(SpecError, match=r"is not in the format of SQuAD v1\.1"):
        read_questions(SquadSource.model_validate(source), "train")
    Path(source["train"]).write_text("{")
    with pytest.raises(SpecError, match="is no JSON"):
        read_questions(SquadSource.model_validate(source), "train")
