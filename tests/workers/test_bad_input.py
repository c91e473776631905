"""Input at the edge of what can be trained on: trained as documented, or refused in a sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.local_executor import LocalExecutor
from search_spaces.contracts import ArtifactRef, Compute, Failed, FailureClass
from search_spaces.models import ModelFacts, ModelSpecYaml, resolve_model
from search_spaces.prunable import PrunableSet
from search_spaces.resolve import TaskFacts
from search_spaces.splits import load_splits
from search_spaces.trial import TrainedMask
from tests.workers.reference import reference_losses
from tests.workers.requests import WORDS, facts, request
from tests.workers.running import end_of, losses_of, run
from workers.mask_file import write_mask
from workers.pruners import random_uniform

MAX_LENGTH = 24  # of the toy task
NUM_SPECIALS = 2


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, LocalExecutor]]:
    """One for each layout."""
    executors = {name: LocalExecutor(Compute(layout=name)) for name in ("unpadded", "padded")}  # type: ignore[arg-type]
    yield executors
    for executor in executors.values():
        executor.close()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFacts, TaskFacts]:
    return facts(tmp_path_factory.mktemp("bad_input"))


def facts_of(root: Path, texts: Sequence[str]) -> tuple[ModelFacts, TaskFacts]:
    """Make a task of these texts with alternating labels; the last half is reported too."""
    rows = [json.dumps({"text": text, "label": "ab"[i % 2]}) for i, text in enumerate(texts)]
    files = {"train": rows, "report": rows[len(rows) // 2 :]}
    for name, some in files.items():
        (root / f"{name}.jsonl").write_text("\n".join(some))
    return facts(root, **{name: str(root / f"{name}.jsonl") for name in files})


def of_lengths(lengths: Sequence[int]) -> list[str]:
    """Return texts of so many words each."""
    draw = np.random.default_rng(3)
    return [" ".join(draw.choice(WORDS, length)) for length in lengths]


def test_longer_texts_are_cut_and_counted(
    tmp_path: Path, executors: dict[str, LocalExecutor]
) -> None:
    """A text that just fits is whole; one word more is cut, and the result says how many were."""
    fits = MAX_LENGTH - NUM_SPECIALS
    model, task = facts_of(tmp_path, of_lengths([fits, fits + 1, 5, 200] * 10))
    place, identity = task.place, task.identity
    train = load_splits(place, identity.num_train_examples, identity.data_sha256)["train"]
    expected = sum(len(text.split()) > fits for text in train.texts)
    assert 0 < expected < len(train)
    done = run(executors["unpadded"], request(tmp_path, model, task))
    assert done.num_truncated == expected


def test_an_empty_text_is_its_special_tokens_in_both_layouts(
    tmp_path: Path, executors: dict[str, LocalExecutor]
) -> None:
    """'' trains and is scored as [CLS] [SEP], alone in a batch or beside long texts."""
    model, task = facts_of(tmp_path, [*of_lengths([3, 9, 1, 20] * 8), *[""] * 8])
    for batch_size in (1, 16):
        done = {}
        for layout, executor in executors.items():
            compute = Compute(layout=layout)  # type: ignore[arg-type]
            wanted = request(tmp_path, model, task, compute=compute, batch_size=batch_size)
            done[layout] = run(executor, wanted)
        expected = reference_losses(tmp_path, wanted, model, {})
        for result in done.values():
            assert losses_of(result) == pytest.approx(expected, abs=1e-6)
        assert done["unpadded"].scores == done["padded"].scores
        assert done["unpadded"].scores["report"].num_examples == 20


@pytest.mark.parametrize("padding", [1, None])
def test_id_0_may_be_a_word_that_the_training_data_lack(
    tmp_path: Path, executors: dict[str, LocalExecutor], padding: int | None
) -> None:
    """A padded batch is filled up with it, whatever the model pads with; it learns nothing."""
    made, task = facts(tmp_path)
    folder = Path(made.place.folder)
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": padding}))
    model = resolve_model(ModelSpecYaml(name="tiny", source=str(folder)))
    done = {}
    for layout, executor in executors.items():
        compute = Compute(layout=layout)  # type: ignore[arg-type]
        wanted = request(tmp_path, model, task, compute=compute, weight_decay=0.0)
        done[layout] = run(executor, wanted)
    assert losses_of(done["padded"]) == pytest.approx(losses_of(done["unpadded"]), abs=1e-6)
    assert done["padded"].scores == done["unpadded"].scores


@pytest.mark.parametrize("batch_size", [1, 31], ids=["every batch", "the last batch"])
def test_a_batch_may_hold_one_example(
    tmp_path: Path,
    toy: tuple[ModelFacts, TaskFacts],
    executors: dict[str, LocalExecutor],
    batch_size: int,
) -> None:
    """Its loss counts once, in both layouts: 63 examples are 2 batches of 31 and one of 1."""
    model, task = toy
    assert task.identity.num_train_examples == 63
    for layout, executor in executors.items():
        compute = Compute(layout=layout)  # type: ignore[arg-type]
        wanted = request(tmp_path, model, task, compute=compute, batch_size=batch_size)
        expected = reference_losses(tmp_path, wanted, model, {})
        assert losses_of(run(executor, wanted)) == pytest.approx(expected, abs=1e-6)


def test_a_parents_mask_of_other_shapes_fails_the_trial_as_a_user_error(
    tmp_path: Path, toy: tuple[ModelFacts, TaskFacts], executors: dict[str, LocalExecutor]
) -> None:
    """Equal names and counts do not make up for a transposed matrix; the process goes on."""
    model, task = toy
    shapes = tuple((columns, rows) for rows, columns in model.prunable.shapes)
    other = PrunableSet(names=model.prunable.names, shapes=shapes)
    data = write_mask(random_uniform(other, 1000, seed=1), {})
    file = tmp_path / "mask.arrow"
    file.write_bytes(data)
    ref = ArtifactRef(uri=str(file), sha256=hashlib.sha256(data).hexdigest())
    source = TrainedMask(parent="f" * 64, num_removed=1000)
    wanted = request(tmp_path, model, task, mask=source, mask_file=ref)
    end = end_of(executors["unpadded"], wanted)
    assert isinstance(end, Failed) and end.failure is FailureClass.USER_ERROR
    for part in (str(file), "a mask of another model", other.sha256[:10]):
        assert part in end.message
    assert run(executors["unpadded"], request(tmp_path, model, task))


def test_a_text_without_any_token_is_refused(
    tmp_path: Path, executors: dict[str, LocalExecutor]
) -> None:
    """Where the tokenizer adds nothing, '' would read the first token of its neighbour."""
    model, task = facts_of(tmp_path, [*of_lengths([3] * 30), *[""] * 10])
    path = Path(model.place.folder) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    changed = resolve_model(ModelSpecYaml(name="tiny", source=model.place.folder))
    end = end_of(executors["unpadded"], request(tmp_path, changed, task))
    assert isinstance(end, Failed) and end.failure is FailureClass.USER_ERROR
    assert "task 'toy': report: 10 texts have no tokens" in end.message
    assert "Remove empty texts, or give the model a tokenizer that adds [CLS]" in end.message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("word_embeddings", "the tokenizer gives the token id 17, but the model's ids end at 9"),
        ("token_type_embeddings", "gives the segment id 1, but the model's ids end at 0"),
    ],
)
def test_ids_without_an_embedding_are_refused(
    tmp_path: Path, executors: dict[str, LocalExecutor], table: str, words: str
) -> None:
    """A tokenizer of a larger model is named, instead of an index error within torch."""
    model, task = facts(tmp_path, text_pair="text")
    folder = Path(model.place.folder)
    weights = load_file(folder / "model.safetensors")
    name = f"embeddings.{table}.weight"
    weights[name] = weights[name][: 10 if table == "word_embeddings" else 1]
    save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"vocab_size": 10} if table == "word_embeddings" else {"type_vocab_size": 1}
    (folder / "config.json").write_text(json.dumps(config))
    changed = resolve_model(ModelSpecYaml(name="tiny", source=str(folder)))
    end = end_of(executors["unpadded"], request(tmp_path, changed, task))
    assert isinstance(end, Failed) and end.failure is FailureClass.USER_ERROR
    assert words in end.message and "Copy tokenizer and weights of one model" in end.message
