"""Models that are not as one would wish: pickles, their own code, settings that bend the distribution, old commits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from models import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from humanward.config import ModelConfig
from humanward.errors import InputError
from humanward.models import provenance
from humanward.models.base import SharedBase
from humanward.models.loading import Loaded, finish_loading, load_model, unused_generation_settings
from humanward.models.provenance import folder_sha256, identify, tokenizer_sha256
from humanward.models.tokens import make_tokens


def load(policy: str | Path, **given: Any) -> Loaded:
    return load_model(ModelConfig(policy=str(policy), dtype="float32", device="cpu", **given))


def refusal(policy: str | Path, **given: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(policy, **given)
    assert "\n" not in str(caught.value)
    assert str(policy) in str(caught.value)
    return str(caught.value)


# --- safetensors only ---------------------------------------------------------------------------------------------


class Trap:
    """A pickle that leaves a trace when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_a_pickle_is_never_read_and_the_line_says_what_to_do(name: str, tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "trace"
    tiny.save(folder)
    (folder / "model.safetensors").unlink()
    torch.save(Trap(trace), folder / name)
    message = refusal(folder)
    assert f"holds its weights as {name}, a pickle, which may run any code when it is read" in message
    assert "save_pretrained(NEW_FOLDER)" in message
    assert not trace.exists()


def test_the_recipe_of_the_documentation_makes_it_readable(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    tiny.save(old)
    model = tiny.model("llama")
    (old / "model.safetensors").unlink()
    torch.save(model.state_dict(), old / "pytorch_model.bin")
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    block = next(part for part in page.split("```") if part.startswith("python\n") and "use_safetensors=False" in part)
    exec(block.removeprefix("python\n").replace("OLD_FOLDER", str(old)).replace("NEW_FOLDER", str(new)), {})
    with torch.no_grad():
        ours = SharedBase(load(new)).logprobs(tiny.tokens())[0]
        assert torch.equal(ours, tiny.shared_base("llama").logprobs(tiny.tokens())[0])


def test_safetensors_beside_a_pickle_are_read_alone(tmp_path: Path) -> None:
    folder, trace = tmp_path / "model", tmp_path / "trace"
    tiny.save(folder)
    torch.save(Trap(trace), folder / "pytorch_model.bin")
    load(folder)
    assert not trace.exists()


# --- code of a model's own ----------------------------------------------------------------------------------------


def test_a_models_own_code_runs_only_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, trace = tmp_path / "model", tmp_path / "trace"
    tiny.save(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoConfig": "homemade.HomeConfig", "AutoModelForCausalLM": "homemade.HomeModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "homemade.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(trace)!r}).touch()\n"
        "class HomeConfig(LlamaConfig):\n    model_type = 'homemade'\n"
        "class HomeModel(LlamaForCausalLM):\n    config_class = HomeConfig\n"
    )
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [str(tmp_path / "modules"), *__import__("sys").path])
    assert "set model.trust_remote_code = true if you trust it" in refusal(folder)
    assert not trace.exists()
    loaded = load(folder, trust_remote_code=True)
    assert trace.exists()
    with torch.no_grad():
        ours = SharedBase(loaded).logprobs(tiny.tokens())[0]
        torch.testing.assert_close(ours, tiny.shared_base("llama").logprobs(tiny.tokens())[0])


# --- settings that would bend the distribution --------------------------------------------------------------------

BENDING: dict[str, Any] = {
    "min_length": 5,
    "min_new_tokens": 4,
    "num_beams": 4,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[3]],
    "suppress_tokens": [1, 2],
    "begin_suppress_tokens": [1],
    "forced_eos_token_id": tiny.EOS,
    "encoder_no_repeat_ngram_size": 2,
}


@pytest.mark.parametrize("name", ["gpt2", "t5-untied", "bart"])
@pytest.mark.parametrize("setting", BENDING)
def test_a_setting_that_is_not_applied_is_named(name: str, setting: str) -> None:
    model = tiny.model(name)
    model.generation_config.update(**{setting: BENDING[setting]})
    (line,) = finish_loading(model, tiny.word_tokenizer(), "owner/model").notices
    assert line.startswith(f"owner/model: its generation settings {setting} = {BENDING[setting]} are not applied")


@pytest.mark.parametrize("name", [*tiny.PLAIN, *tiny.CAPPED, *tiny.ENCODER_DECODER])
def test_a_model_without_such_settings_is_quiet(name: str) -> None:
    model = tiny.model(name)
    neutral = {
        "min_length": 0,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "temperature": 0.7,
    }
    model.generation_config.update(**neutral, top_k=20, top_p=0.8, suppress_tokens=[])
    assert finish_loading(model, tiny.word_tokenizer(), "owner/model").notices == ()


def test_a_forced_first_token_is_kept_where_the_decoder_reads_it_and_named_elsewhere() -> None:
    for name, named in (("bart", []), ("llama", ["forced_bos_token_id = 3"])):
        model = tiny.model(name)
        model.generation_config.forced_bos_token_id = 3
        assert unused_generation_settings(model) == named


def test_settings_survive_a_folder(tmp_path: Path) -> None:
    """As on the hub: in generation_config.json, or in the config.json of older models."""
    tiny.save(tmp_path / "new", "bart")
    file = tmp_path / "new" / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "no_repeat_ngram_size": 3, "forced_bos_token_id": 2}))
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    (tmp_path / "old" / "generation_config.json").unlink()
    file = tmp_path / "old" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "no_repeat_ngram_size": 3, "forced_bos_token_id": 2}))
    for kind in ("new", "old"):
        loaded = load(tmp_path / kind)
        assert [line for line in loaded.notices if "no_repeat_ngram_size = 3" in line], kind
        from humanward.models.states import decoder_prefix

        assert decoder_prefix(loaded.model) == (tiny.EOS, 2), kind


# --- logits that are more than a product --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "plain"),
    [
        ("gemma2", {}, False),  # soft cap of .5
        ("gemma2", {"final_logit_softcapping": None}, True),
        ("cohere", {}, False),
        ("cohere", {"logit_scale": 1.0}, True),
        ("granite", {}, False),
        ("granite", {"logits_scaling": 1.0}, True),
        ("gptj", {}, True),  # a bias of the output matrix is added as it is
        ("llama", {"tie_word_embeddings": True}, True),
    ],
)
def test_the_output_matrix_is_checked_at_loading(name: str, changes: dict[str, Any], plain: bool) -> None:
    base = tiny.shared_base(name, **changes)
    assert base._own_head is plain
    assert any("its own forward is used, which takes more memory" in line for line in base.notices) is not plain
    prompt, response = [1, 2, 3], [5, 6, tiny.EOS]
    with torch.no_grad():
        own = base.model(input_ids=torch.tensor([prompt + response])).logits[0, 2:-1].double().log_softmax(-1)
        ours = base.logprobs(make_tokens([prompt], [response], tiny.PAD))[0][0]
    torch.testing.assert_close(
        ours.double(), own.gather(1, torch.tensor(response)[:, None])[:, 0], rtol=1e-5, atol=1e-5
    )


def test_a_bias_of_the_output_matrix_counts() -> None:
    """The control: without GPT-J's bias the log-probabilities are others."""
    base = tiny.shared_base("gptj")
    with torch.no_grad():
        with_bias = base.logprobs(tiny.tokens())[0]
        base.model.lm_head.bias.zero_()
        assert float((base.logprobs(tiny.tokens())[0] - with_bias).abs().max()) > 0.05


# --- which weights ------------------------------------------------------------------------------------------------

COMMITS = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of owner/tiny, with two commits of which main names the second."""
    repo = tmp_path / "hub" / "models--owner--tiny"
    for seed, commit in enumerate(COMMITS):
        tiny.save(repo / "snapshots" / commit, seed=seed)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMITS[1])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repo


def test_a_hub_id_is_recorded_with_the_commit_that_it_stood_for(hub: Path) -> None:
    assert identify("owner/tiny") == {"name": "owner/tiny", "commit": COMMITS[1]}
    assert identify("owner/tiny", COMMITS[0]) == {"name": "owner/tiny", "commit": COMMITS[0]}
    assert identify("owner/other") == {"name": "owner/other", "commit": None}
    with torch.no_grad():
        for commit, seed in ((None, 1), (COMMITS[0], 0), (COMMITS[1], 1)):
            ours = SharedBase(load("owner/tiny", revision=commit)).logprobs(tiny.tokens())[0]
            assert torch.equal(ours, tiny.shared_base("llama", seed).logprobs(tiny.tokens())[0])


def test_a_hub_model_of_pickles_alone_is_refused(hub: Path) -> None:
    snapshot = hub / "snapshots" / COMMITS[1]
    (snapshot / "model.safetensors").unlink()
    torch.save(tiny.model("llama").state_dict(), snapshot / "pytorch_model.bin")
    message = refusal("owner/tiny")
    assert "safetensors" in message
    assert "docs/models.md" in message


def test_a_folder_is_known_by_what_decides(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model")
    before = identify(str(folder))
    assert before == {"name": str(folder), "sha256": folder_sha256(folder)}
    (folder / "README.md").write_text("words")
    assert identify(str(folder)) == before
    shutil.copytree(folder, tmp_path / "copy")
    assert folder_sha256(tmp_path / "copy") == before["sha256"]
    for name, change in (
        ("config.json", lambda content: content + b" "),
        ("model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
        ("tokenizer.json", lambda content: content.replace(b"w3", b"w_")),
    ):
        other = tmp_path / name
        shutil.copytree(folder, other)
        (other / name).write_bytes(change((other / name).read_bytes()))
        assert folder_sha256(other) != before["sha256"], name


def test_large_files_are_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 bytes at 0, 16 and 32 of a file of 36: a change there is seen, one between them is not."""
    monkeypatch.setattr(provenance, "WHOLE", 12)
    monkeypatch.setattr(provenance, "_BLOCK", 4)
    content = bytearray(range(36))
    file = tmp_path / "model.safetensors"

    def digest(place: int | None, size: int = 36) -> str:
        changed = bytearray(content[:size])
        if place is not None:
            changed[place] ^= 1
        file.write_bytes(changed)
        return folder_sha256(tmp_path)

    plain = digest(None)
    assert all((digest(place) != plain) == (place % 16 < 4) for place in range(36))
    assert digest(None, 35) != plain


def test_a_tokenizer_is_known_by_what_its_ids_mean() -> None:
    plain = tokenizer_sha256(tiny.word_tokenizer())
    assert tokenizer_sha256(tiny.word_tokenizer()) == plain
    assert tokenizer_sha256(tiny.word_tokenizer(pad=False, chat=True)) == plain
    assert tokenizer_sha256(tiny.word_tokenizer(25)) != plain
    assert tokenizer_sha256(tiny.word_tokenizer(stops=("stop",))) != plain
    assert tokenizer_sha256(tiny.word_tokenizer(eos=False)) != plain


# --- tokenizers -----------------------------------------------------------------------------------------------------


def test_added_tokens_need_embeddings(tmp_path: Path) -> None:
    """Chat markers added to a tokenizer whose model was never resized."""
    tokenizer = tiny.word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    message = refusal(tiny.save(tmp_path / "lacks", tokenizer=tokenizer))
    assert "its tokenizer has 26 tokens but the model only 24 embeddings" in message
    assert load(tiny.save(tmp_path / "has", tokenizer=tokenizer, vocab_size=32)).vocabulary == 26


def test_tied_embeddings_are_one_matrix_and_stay_frozen(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "llama", tie_word_embeddings=True)
    base = tiny.with_policy(SharedBase(load(folder)), moved=0.2)
    assert base.model.lm_head.weight.data_ptr() == base.model.model.embed_tokens.weight.data_ptr()
    assert not base.model.lm_head.weight.requires_grad
    base.save_role("policy", tmp_path / "adapter")
    assert AutoTokenizer.from_pretrained(folder).get_vocab()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(plain.lm_head.weight, base.model.lm_head.weight)
