"""The select split is held out by text, for every seed alike (method rule 14)."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.contracts import TaskPlace
from search_spaces.datafiles import data_sha256
from search_spaces.errors import SpecError
from search_spaces.examples import Examples
from search_spaces.splits import HashSelect, ReportSelect, load_splits, make_splits, text_hashes
from search_spaces.tasks import FilesSource

WORDS = st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=2)
TEXTS = st.lists(WORDS.map(" ".join), min_size=40, max_size=120)


def examples(texts: list[str], pairs: list[str] | None = None) -> Examples:
    return Examples(texts, pairs, [0] * len(texts))


@given(TEXTS)
def test_no_text_stands_in_train_and_select(texts: list[str]) -> None:
    """Duplicates fall on one side together, and every example falls on one side."""
    try:
        train, select = make_splits(examples(texts), HashSelect(), None)
    except SpecError:  # every group of duplicates is larger than a tenth
        assert min(Counter(texts).values()) > len(texts) // 10
        return
    assert not {texts[i] for i in train} & {texts[i] for i in select}
    assert sorted(train + select) == list(range(len(texts)))
    assert train == sorted(train) and select == sorted(select)
    assert 1 <= len(select) <= len(texts) // 10


@given(st.permutations(range(60)))
def test_the_split_does_not_know_the_order_of_the_file(order: list[int]) -> None:
    """The same texts are chosen however the file is sorted."""
    texts = [f"sentence {number}" for number in range(60)]
    shuffled = [texts[number] for number in order]
    for part in (0, 1):
        plain = make_splits(examples(texts), HashSelect(), 20)[part]
        moved = make_splits(examples(shuffled), HashSelect(), 20)[part]
        assert {texts[i] for i in plain} == {shuffled[i] for i in moved}


def test_sizes_are_a_tenth_and_at_most_the_limit() -> None:
    texts = [f"sentence {number}" for number in range(1000)]
    assert len(make_splits(examples(texts), HashSelect(), None)[1]) == 100
    assert len(make_splits(examples(texts), HashSelect(max_examples=7), None)[1]) == 7


def test_normalisation_joins_what_reads_the_same() -> None:
    """Case, width and white space do not count; which half of a pair a word is in does."""
    first, second, third = text_hashes(examples(["Ａ  cat", "a CAT\n", "a dog"]))
    assert first == second != third
    one, two = text_hashes(examples(["a b", "a"], ["c", "b c"]))
    assert one != two


def test_subsets_are_nested_and_leave_select_alone() -> None:
    """A smaller train subset is part of a larger one, and select stays as it is."""
    data = examples([f"sentence {number}" for number in range(500)])
    small, select = make_splits(data, HashSelect(), 50)
    large, same_select = make_splits(data, HashSelect(), 200)
    assert (len(small), len(large)) == (50, 200)
    assert set(small) < set(large) and select == same_select


def test_the_subset_is_not_the_next_slice_of_the_select_order() -> None:
    """Train subsets use another salt: growing select by one takes no particular train example."""
    data = examples([f"sentence {number}" for number in range(500)])
    subset = set(make_splits(data, HashSelect(), 50)[0])
    wider = set(make_splits(data, HashSelect(fraction=0.2), None)[1])
    assert 0 < len(subset & wider) < 50


def test_literal_indices_pin_the_rule() -> None:
    """A change of hash, salt or normalisation would silently change every select split."""
    data = examples([f"sentence {number}" for number in range(40)])
    assert make_splits(data, HashSelect(), 5) == ([2, 7, 8, 16, 28], [11, 15, 17, 32])


def test_report_rule_holds_nothing_out() -> None:
    train, select = make_splits(examples(["a", "b", "c"]), ReportSelect(), None)
    assert (train, select) == ([0, 1, 2], [])


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(SpecError, match=r"has 5 examples, too few to hold out 0\.1 of them"):
        make_splits(examples(list("abcde")), HashSelect(), None)
    with pytest.raises(SpecError, match="has 0 examples, and holding out a select split leaves"):
        make_splits(examples([]), ReportSelect(), None)
    with pytest.raises(SpecError, match=r"task: train_examples: is 4, but only 3 remain"):
        make_splits(examples(list("abc")), ReportSelect(), 4)


@pytest.fixture
def place(tmp_path: Path) -> TaskPlace:
    for split, num in (("train", 50), ("dev", 5)):
        rows = [{"text": f"{split} {i}", "label": "ab"[i % 2]} for i in range(num)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train, dev = str(tmp_path / "train.jsonl"), str(tmp_path / "dev.jsonl")
    source = FilesSource(train=train, report=dev)
    return TaskPlace(name="t", source=source.model_dump(), select=HashSelect().model_dump())


def test_load_splits_gives_what_a_trial_needs(place: TaskPlace) -> None:
    splits = load_splits(place, 20)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 20,
        "select": 5,
        "report": 5,
    }
    assert not set(splits["train"].texts) & set(splits["select"].texts)
    assert splits["report"].texts == [f"dev {i}" for i in range(5)]
    assert splits["report"].labels == [0, 1, 0, 1, 0]


def test_under_report_selection_both_splits_are_one(place: TaskPlace) -> None:
    same = place.model_copy(update={"select": {"kind": "report"}})
    splits = load_splits(same, None)
    assert splits["select"] is splits["report"]
    assert len(splits["train"]) == 50


def test_data_that_changed_since_planning_are_refused(place: TaskPlace) -> None:
    source = FilesSource.model_validate(place.source)
    planned = data_sha256(source)
    assert len(load_splits(place, None, planned)["train"]) == 45
    Path(source.report).write_text('{"text": "new", "label": "a"}\n')
    with pytest.raises(SpecError, match=r"task 't': data have sha256 .* was planned with"):
        load_splits(place, None, planned)
