"""Tasks made of tokens are counted when a sweep is planned, and faulty data are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces import docstrings
from search_spaces.corpus import read_corpus, text_file
from search_spaces.datafiles import data_sha256
from search_spaces.errors import SpecError
from search_spaces.expand import expand
from search_spaces.loading import parse_sweep, show
from search_spaces.resolve import resolve_sweep
from search_spaces.tasks import (
    metric_range,
    primary_metric,
    problem_of,
    report_splits,
    secondary_metrics,
    task_source,
)
from search_spaces.token_sources import (
    SQUAD_REVISION,
    BuiltinWordsSource,
    SquadHubSource,
    TextSource,
)
from tests.search_spaces.makers import faults_of, sweep_of
from tests.workers.token_tasks import (
    SPECIALS,
    make_word_model,
    save_tokenizer,
    write_squad,
    write_text,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_word_model(tmp_path_factory.mktemp("words"))


def test_blocks_make_the_steps_of_an_epoch(words: Path, tmp_path: Path) -> None:
    """150 sentences of 5 tokens fill 41 blocks of 18, of which 4 are held out."""
    spec = sweep_of(words, write_text(tmp_path))
    models, tasks = resolve_sweep(spec)
    facts = tasks["own"]
    assert (facts.num_train, facts.num_select, facts.num_report) == (37, 4, 40 * 5 // 18)
    assert (facts.identity.problem, facts.identity.metric) == ("masked-lm", "masked_accuracy")
    assert len(facts.identity.head_sha256) == 64
    trials = expand(spec, models, tasks)
    assert {trial.spec.recipe.train_steps for trial in trials} == {2 * 2}  # 37 / 32, two epochs
    assert {trial.spec.task for trial in trials} == {facts.identity}


def test_questions_are_split_and_windows_make_the_steps(words: Path, tmp_path: Path) -> None:
    """A context of 15 tokens beside a question of 5 has windows of 12: two of them."""
    spec = sweep_of(words, write_squad(tmp_path))
    models, tasks = resolve_sweep(spec)
    facts = tasks["own"]
    assert (facts.num_select, facts.num_report) == (8, 20)
    assert (facts.identity.num_train_examples, facts.num_train) == (72, 144)
    assert (facts.identity.problem, facts.identity.num_labels) == ("span", 2)
    steps = {trial.spec.recipe.train_steps for trial in expand(spec, models, tasks)}
    assert steps == {2 * -(-144 // 32)}


def test_each_model_counts_its_own_tokens(words: Path, tmp_path: Path) -> None:
    """Another tokenizer cuts other blocks: its trials have their own steps and keys."""
    other = make_word_model(tmp_path / "other")
    path = other / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["vocab"] = {
        {"tree": "tre", "river": "riv"}.get(w, w): i for w, i in data["model"]["vocab"].items()
    }
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "BertPreTokenizer"},
            {"type": "Split", "pattern": {"String": "t"}, "behavior": "Isolated", "invert": False},
        ],
    }
    path.write_text(json.dumps(data))
    models = [{"name": "one", "source": str(words)}, {"name": "two", "source": str(other)}]
    spec = sweep_of(words, write_text(tmp_path), models=models)
    facts = resolve_sweep(spec)[1]["own"]
    assert facts.on("one").num_train == facts.num_train
    assert facts.on("two").num_train > facts.on("one").num_train
    trials = expand(spec, *resolve_sweep(spec))
    sizes = {t.main_role.model: t.spec.task.num_train_examples for t in trials}
    assert sizes == {name: facts.on(name).num_train for name in ("one", "two")}


def test_counts_are_kept(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time nothing is cut; changed data or settings are counted anew."""
    source = write_text(tmp_path)
    first = resolve_sweep(sweep_of(words, source))[1]
    with monkeypatch.context() as patch:
        patch.setattr("search_spaces.token_tasks.block_splits", None)
        assert resolve_sweep(sweep_of(words, source))[1] == first
    longer = resolve_sweep(sweep_of(words, source, 30))[1]["own"]
    assert longer.num_train < first["own"].num_train
    write_text(tmp_path, num_train=200)
    assert resolve_sweep(sweep_of(words, source))[1]["own"].num_train != first["own"].num_train


def test_a_damaged_count_is_made_anew(words: Path, tmp_path: Path) -> None:
    source = write_text(tmp_path)
    first = resolve_sweep(sweep_of(words, source))[1]
    (kept,) = (tmp_path / "cache" / "counts").iterdir()
    kept.write_text('{"num_train": ')
    assert resolve_sweep(sweep_of(words, source))[1] == first


def test_a_subset_of_blocks_or_questions_is_trained_on(words: Path, tmp_path: Path) -> None:
    for write, fewer in ((write_text, 10), (write_squad, 20)):
        task = {"name": "own", "source": write(tmp_path), "max_length": 20}
        facts = resolve_sweep(sweep_of(words, {}, tasks=[task | {"train_examples": fewer}]))[1]
        assert facts["own"].identity.num_train_examples == fewer


def test_what_is_asked_of_the_new_sources() -> None:
    text = TextSource(train="a", report="b")
    assert (problem_of(text), primary_metric(text)) == ("masked-lm", "masked_accuracy")
    assert secondary_metrics(text) == ("perplexity",)
    squad = SquadHubSource()
    assert squad.revision == SQUAD_REVISION
    assert (problem_of(squad), primary_metric(squad)) == ("span", "squad_f1")
    assert secondary_metrics(squad) == ("exact_match",)
    assert metric_range("squad_f1") == metric_range("masked_accuracy") == 1.0
    assert report_splits(text) == report_splits(squad) == ("report",)


def test_hub_data_are_named_without_a_download() -> None:
    """By repository, configuration, revision, column, splits and settings."""
    given = {"kind": "text-hub", "repository": "a/b", "revision": "0" * 40}
    names = {
        data_sha256(task_source({**given, **change}))
        for change in (
            {},
            {"config": "c"},
            {"revision": "1" * 40},
            {"text": "t"},
            {"train": "validation"},
            {"report": "test"},
            {"mask_probability": 0.2},
        )
    }
    assert len(names) == 7
    first, second = SquadHubSource(), SquadHubSource(revision="0" * 40)
    assert data_sha256(first) != data_sha256(second)


def test_hub_sources_that_cannot_be_had_say_so(
    words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the library raises; and a missing column lists those that there are."""

    class Rows(dict[str, list[Any]]):
        @property
        def column_names(self) -> list[str]:
            return list(self)

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("search_spaces.hub.hub_fault", lambda: None)
    monkeypatch.setattr("datasets.load_dataset", refuse)
    text = {"kind": "text-hub", "repository": "a/b", "revision": "0" * 40}
    assert faults_of(words, text)[0] == (
        "a/b train: cannot be loaded (split train): no network. Check repository, config, revision "
        "and network, or give text files: kind: text."
    )
    squad = {"kind": "squad-hub"}
    assert faults_of(words, squad, 80)[1].startswith(
        "rajpurkar/squad validation: cannot be loaded (split validation): no network."
    )
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Rows(body=["x"]))
    assert faults_of(words, text)[0] == "a/b train: has no column 'text'; columns found: body."
    assert "has no column 'context'" in faults_of(words, squad, 80)[1]
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Rows(text=["x", 3]))
    assert faults_of(words, text)[0] == (
        "a/b train: row 2: column 'text' holds int, but must hold text. Columns found: text."
    )


def test_faulty_text_is_refused(words: Path, tmp_path: Path) -> None:
    source = write_text(tmp_path)
    Path(source["train"]).write_text("anna sees a tree .")
    found = faults_of(words, source)
    assert found == [
        f"{source['train']}: has 5 tokens, but one block of max_length 20 needs 18. Give more "
        "text, or a smaller max_length."
    ]
    Path(source["train"]).write_text(" \n\n")
    assert faults_of(words, source)[0].startswith(f"{source['train']}: holds no text.")
    Path(source["train"]).write_bytes(b"caf\xe9")
    assert "line 1 is not utf-8 text (byte 0xe9)" in faults_of(words, source)[0]
    Path(source["train"]).unlink()
    assert faults_of(words, source)[0].startswith(f"{source['train']}: does not exist.")
    same = source | {"train": source["report"]}
    assert "holds the same examples as the train file" in faults_of(words, same)[0]


def test_models_that_cannot_guess_words_are_refused(tmp_path: Path) -> None:
    source = write_text(tmp_path)
    bare = make_word_model(tmp_path / "bare")
    save_tokenizer(bare, SPECIALS[:-1])
    assert faults_of(bare, source) == [
        "model 'tiny': source: has a tokenizer without a mask token, which hides the words to be "
        "guessed. Take the task 'own' or the model out of this sweep."
    ]
    for change, text in (
        ({"tie_word_embeddings": False}, "has tie_word_embeddings false, but words are guessed by"),
        ({"vocab_size": 3}, "has a tokenizer of 27 tokens, but embeds only 3."),
    ):
        folder = make_word_model(tmp_path / next(iter(change)))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        assert text in faults_of(folder, source)[0]
    (bare / "tokenizer.json").rename(bare / "gone.json")
    (bare / "vocab.txt").write_text("a")
    assert "holds no tokenizer.json, which tells how many tokens" in faults_of(bare, source)[0]


def test_electra_does_not_guess_words(tmp_path: Path) -> None:
    from transformers import ElectraConfig, ElectraModel

    config = ElectraConfig(
        vocab_size=save_tokenizer(tmp_path),
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    ElectraModel(config).save_pretrained(str(tmp_path))
    assert faults_of(tmp_path, write_text(tmp_path))[0] == (
        "model 'tiny': source: is of the family electra, which was not pre-trained to guess "
        "hidden words. Take the task 'own' or the model out of this sweep."
    )


def test_windows_need_room(words: Path, tmp_path: Path) -> None:
    assert faults_of(words, write_squad(tmp_path), 9) == [
        "task 'own': max_length: is 9, but a question of max_query_length 6 tokens, 3 special "
        "ones and one of the context need 10. Write max_length: 10 or more; the paper has 384."
    ]


def test_a_sweep_file_can_name_them_and_is_shown_again() -> None:
    text = """
name: eleven
models: [{name: base, source: some/model}]
tasks:
  - {name: words, source: {kind: text-hub, repository: a/b, revision: 'REV', config: c}}
  - {name: squad, max_length: 384, source: {kind: squad-hub}}
seeds: [1, 2, 3]
pooler: keep-all
schedule: {kind: levels, levels: [0.5]}
recipe: {train_steps: 10, learning_rate: 1.0e-4}
""".replace("REV", "0" * 40)
    spec = parse_sweep(text)
    assert parse_sweep(show(spec)) == spec
    with pytest.raises(SpecError) as error:
        parse_sweep(text.replace("keep-all", "keep").replace("squad-hub", "squad-hub, strid: 3"))
    assert [str(fault) for fault in error.value.faults] == [
        "sweep: tasks[1].source.strid: is no known field. Did you mean 'doc_stride'?",
        "sweep: pooler: is 'keep', but must be one of theta0-magnitude, keep-all. Did you mean "
        "'keep-all'?",
    ]


def test_the_embedded_sentences_are_a_text_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``builtin-words``: the docstrings' sentences without their labels, one a line."""
    for split in ("train", "dev"):
        rows = [json.dumps({"label": "torch", "text": f"Sentence {n} of {split}."}) for n in (1, 2)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(docstrings, "build", lambda folder: tmp_path)
    source = BuiltinWordsSource()
    assert read_corpus(source, "report") == ["Sentence 1 of dev.\n", "Sentence 2 of dev.\n"]
    first = data_sha256(source)
    text_file(source, "report").write_text("damaged")
    assert data_sha256(source) == first  # written again
    assert problem_of(source) == "masked-lm"
