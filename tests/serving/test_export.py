"""What is exported loads without humanward and gives the logits of the run's policy, for every kind of model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from cli import small, tiny_encoder_decoders, tiny_models
from cli.running import humanward, leftovers
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from humanward.models.states import decoder_prefix
from humanward.progress import Reporter
from humanward.records import Prompt
from humanward.run_dir import open_run
from humanward.stages.context import Run

BUILD = {
    "chat": tiny_models.causal,
    "t5-tied": lambda folder: tiny_encoder_decoders.t5(folder, tied=True),
    "t5-untied": tiny_encoder_decoders.t5,
    "bart": tiny_encoder_decoders.bart,
}


def start(folder: Path, name: str, **changes: dict[str, Any]) -> Path:
    """A finished run on a tiny model; its learning rate is high, so that the policy is far from its base."""
    folder.mkdir(exist_ok=True)
    BUILD[name](folder / name)
    for build in (tiny_models.roberta, tiny_models.bert):
        if not (folder / build.__name__).exists():
            build(folder / build.__name__)
    values = small.settings(folder, folder)
    values["model"]["policy"] = str(folder / name)
    values["sampling"] |= {"temperature": 0.9}
    values["ppo"] |= {"learning_rate": 0.05, "target_update_kl": 1e6, "kl_budget": 1e6}
    values["best_of_n"] = {"samples": 2, "prompts": 2}
    for section, keys in changes.items():
        values[section] = {**values.get(section, {}), **keys}
    outcome = humanward("run", small.write(folder / "config.toml", values), "--out", folder / "run", "--json")
    assert outcome.code == 0, outcome.err
    return folder / "run"


@pytest.fixture(scope="module", params=BUILD)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(tmp_path_factory.mktemp(request.param), request.param)


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    """By the model's own forward; an encoder-decoder reads ``ids`` on both sides."""
    if not model.config.is_encoder_decoder:
        return model(input_ids=torch.tensor([ids])).logits
    start = list(decoder_prefix(model))
    return model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([[*start, *ids]])).logits


def policy_logits(run: Path, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(the policy's, the reference's) as the run's own stages compute them."""
    context = Run(open_run(run, None), Reporter(quiet=True))
    base = context.base()
    base.replace_role("policy", context.policy_folder)
    found = []
    for role in ("policy", "reference"):
        with base.role(role):
            found.append(logits(base.model, ids))
    return found[0], found[1]


def family(folder: Path) -> Any:
    seq2seq = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("is_encoder_decoder")
    return AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM


IDS = [5, 40, 17, 60, 101, 33, 2]


def test_the_whole_model_loads_in_transformers_and_is_the_policy(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    written = humanward("export", run, "--out", out, "--json").json()
    assert written["kind"] == "model"
    assert set(written["files"]) == {p.name for p in out.iterdir()}
    assert not [p for p in out.iterdir() if p.suffix in (".bin", ".pt", ".pth")]
    assert leftovers(tmp_path) == []
    policy, reference = policy_logits(run, IDS)
    model, info = family(out).from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(logits(model.eval(), IDS), policy, rtol=1e-4, atol=1e-4)
    assert float((policy - reference).abs().max()) > 0.01
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    base = Path(json.loads((run / "models.json").read_text(encoding="utf-8"))["policy"]["name"])
    ours, theirs = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(base)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == theirs.chat_template
    text = "who likes b? </s>"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_the_settings_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    """What would change the distribution (BART's summaries have some) is gone; what the decoder reads first stays."""
    assert humanward("export", run, "--out", tmp_path / "model").code == 0
    settings = GenerationConfig.from_pretrained(tmp_path / "model")
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.max_new_tokens) == (True, 0.9, 1.0, 6)
    assert not settings.top_k
    for name, neutral in (
        ("no_repeat_ngram_size", 0),
        ("min_length", 0),
        ("num_beams", 1),
        ("repetition_penalty", 1.0),
    ):
        assert getattr(settings, name) in (None, neutral)
    model = family(tmp_path / "model").from_pretrained(tmp_path / "model")
    if run.parent.name.startswith("bart"):
        assert decoder_prefix(model) == (2, 0)
    if run.parent.name.startswith("t5"):
        assert decoder_prefix(model) == (0,)
    answer = model.generate(input_ids=torch.tensor([IDS]), attention_mask=torch.ones(1, len(IDS), dtype=torch.long))
    assert answer.shape[1] <= (0 if model.config.is_encoder_decoder else len(IDS)) + 6 + 2


def test_the_adapter_loads_in_peft_and_is_the_policy(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    written = humanward("export", run, "--out", out, "--adapter", "--json").json()
    assert set(written["files"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    values = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    base = Path(values["base_model_name_or_path"])
    with_it = peft.PeftModel.from_pretrained(family(base).from_pretrained(base), str(out)).eval()
    torch.testing.assert_close(logits(with_it, IDS), policy_logits(run, IDS)[0], rtol=1e-4, atol=1e-4)


def test_the_card_says_what_it_is_and_what_was_measured(run: Path, tmp_path: Path) -> None:
    humanward("export", run, "--out", tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    models = json.loads((run / "models.json").read_text(encoding="utf-8"))
    assert report["verdict"] in card
    assert models["policy"]["sha256"] in card
    assert models["reward"]["name"] in card
    assert str(run.parent / "prompts.txt") in card
    assert f"{report['toxicity']['after']['mean']:.4f}" in card
    (run / "report.json").rename(run / "aside.json")
    try:
        humanward("export", run, "--out", tmp_path / "unmeasured")
    finally:
        (run / "aside.json").rename(run / "report.json")
    assert "Nothing yet" in (tmp_path / "unmeasured" / "README.md").read_text(encoding="utf-8")


# --- once, on a causal model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(tmp_path_factory.mktemp("chat"), "chat")


def test_an_exported_model_is_where_another_run_can_start(chat: Path, tmp_path: Path) -> None:
    humanward("export", chat, "--out", tmp_path / "model")
    answers = []
    for folder in (chat, None):
        if folder is None:
            values = small.settings(chat.parent, tmp_path)
            values["model"]["policy"] = str(tmp_path / "model")
            values["sampling"] |= {"temperature": 0.9}
            folder = tmp_path / "next"
            assert humanward("sample", "--run", folder, "--config", small.write(tmp_path / "c.toml", values)).code == 0
            base = Run(open_run(folder, None), Reporter(quiet=True)).base()
            ids = base.prompt_ids(Prompt("p", "what is b?"))
            with base.role("reference"):
                answers.append(logits(base.model, ids))
        else:
            answers.append(
                policy_logits(
                    folder,
                    Run(open_run(folder, None), Reporter(quiet=True)).base().prompt_ids(Prompt("p", "what is b?")),
                )[0]
            )
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4)


def test_dora_and_rslora_are_merged_as_they_act(tmp_path: Path) -> None:
    run = start(tmp_path, "bart", lora={"variant": "dora", "rslora": True})
    assert humanward("export", run, "--out", tmp_path / "model").code == 0
    model = family(tmp_path / "model").from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(logits(model, IDS), policy_logits(run, IDS)[0], rtol=1e-4, atol=1e-4)


def test_an_adapter_on_a_tied_output_matrix_is_not_merged(tmp_path: Path) -> None:
    """Merging would change the embeddings too, which the adapter leaves alone: another model than the measured one."""
    run = start(tmp_path, "t5-tied", lora={"target_modules": ["q", "lm_head"]})
    line = humanward("export", run, "--out", tmp_path / "model").refusal()
    assert "merged into its base the adapter gives other logits" in line
    assert "export the adapter alone with --adapter" in line
    assert not (tmp_path / "model").exists()
    assert humanward("export", run, "--out", tmp_path / "adapter", "--adapter").code == 0


def test_a_fully_trained_policy_is_exported_whole(tmp_path: Path) -> None:
    run = start(tmp_path, "t5-untied", model={"train": "full"}, ppo={"learning_rate": 1e-3})
    out = tmp_path / "model"
    assert humanward("export", run, "--out", out).code == 0
    policy, reference = policy_logits(run, IDS)
    torch.testing.assert_close(logits(family(out).from_pretrained(out).eval(), IDS), policy, rtol=1e-4, atol=1e-4)
    assert float((policy - reference).abs().max()) > 1e-3
    assert "all weights" in (out / "README.md").read_text(encoding="utf-8")
    line = humanward("export", run, "--out", tmp_path / "adapter", "--adapter").refusal()
    assert "trained the whole model, so there is no adapter; leave --adapter out" in line
    assert not (tmp_path / "adapter").exists()


def test_what_cannot_be_exported_is_one_line(chat: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "is there already; name a new folder" in humanward("export", chat, "--out", tmp_path / "full").refusal()
    assert "not a run directory" in humanward("export", tmp_path / "none", "--out", tmp_path / "o").refusal()
    unfinished = tmp_path / "unfinished"
    shutil.copytree(chat, unfinished)
    (unfinished / "stages.json").write_text("{}")
    assert "the align stage has not finished" in humanward("export", unfinished, "--out", tmp_path / "o").refusal()
    lost = tmp_path / "lost"
    shutil.copytree(chat, lost)
    shutil.rmtree(lost / "adapter")
    assert "holds no adapter_model.safetensors" in humanward("export", lost, "--out", tmp_path / "o").refusal()
    quantised = tmp_path / "quantised"
    shutil.copytree(chat, quantised)
    config = (quantised / "config.toml").read_text(encoding="utf-8")
    (quantised / "config.toml").write_text(config.replace('quantization = "none"', 'quantization = "nf4"'))
    line = humanward("export", quantised, "--out", tmp_path / "o").refusal()
    assert "was trained on a nf4 base" in line
    assert "export the adapter alone with --adapter" in line
    assert humanward("export", quantised, "--out", tmp_path / "alone", "--adapter").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "full", "lost", "quantised", "unfinished"]


def test_a_base_that_changed_since_is_refused(chat: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(chat, run)
    base = chat.parent / "chat" / "model.safetensors"
    kept = base.read_bytes()
    base.write_bytes(kept[:-4] + b"\x00\x00\x00\x40")
    try:
        line = humanward("export", run, "--out", tmp_path / "o").refusal()
        again = humanward("evaluate", "--run", run, "--again").refusal(after_work=True)
    finally:
        base.write_bytes(kept)
    for refused in (line, again):
        assert f"{run}: began with another policy under the name {chat.parent / 'chat'} (sha256 " in refused
    assert not (tmp_path / "o").exists()
