"""Trains the two toxicity detectors: small encoders with word vectors and soft labels from their own texts alone.

The detector and the judge share no training text: every shared source is split by the hash of the text, the other
sources belong to one of them, and what is left in common (a greeting, say) is dropped from the judge's side.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from humanward.demo.recipe import corpus
from humanward.demo.recipe.corpus import Labelled
from humanward.demo.recipe.teacher import teach, word_vectors
from humanward.demo.recipe.templates import sentences

LABELS = {0: "nothate", 1: "hate"}
SPECIAL = ("<pad>", "<cls>", "<sep>", "<mask>")
PAD, CLS, SEP, MASK = range(4)


@dataclass(frozen=True)
class Spec:
    """What distinguishes the two: side of shared sources, seed, shape, length of training, and how targets are formed.

    ``teacher_share`` of a target comes from the linear teacher; ``sharpness`` moves annotators' shares away from 1/2.
    """

    name: str
    side: int
    seed: int
    hidden: int = 256
    layers: int = 2
    vocabulary: int = 10_000
    max_tokens: int = 128
    epochs: float = 2.0
    batch: int = 64
    learning_rate: float = 5e-4
    token_dropout: float = 0.1
    merge_dropout: float = 0.1
    teacher_share: float = 0.4
    sharpness: float = 1.0
    dialogue_turns: int = 10_000
    meeting_turns: int = 8_000
    unlabelled_turns: int = 15_000


DETECTOR = Spec("detector", side=0, seed=11, epochs=1.2)
JUDGE = Spec("judge", side=1, seed=23, layers=1, epochs=1.3, token_dropout=0.15, teacher_share=0.2, sharpness=2.0)


@dataclass(frozen=True)
class Texts:
    """Training texts of one detector: labelled rows, unlabelled texts for the teacher, plain text for word vectors."""

    rows: list[Labelled]
    unlabelled: list[str]
    plain: list[str]


def held_out_dialogue(data: Path) -> list[str]:
    """Turns of the conversations that neither detector trains on (a twentieth, by hash of the first turn)."""
    return [turn for turns in corpus.self_dialogue(data) if turns and is_held_out(turns) for turn in turns]


def is_held_out(turns: Sequence[str]) -> bool:
    """Whether a conversation is kept from every training."""
    return corpus.fraction(turns[0], "held out") < 0.05


def gather(data: Path, spec: Spec) -> Texts:
    """All texts of one side, before what both sides hold is dropped."""
    rng = random.Random(spec.seed)
    mine: Callable[[str], bool] = lambda text: corpus.half(text, "detectors") == spec.side  # noqa: E731
    rows = [sharpened(row, spec.sharpness) for row in corpus.toxic_spans(data) if mine(row.text)]
    own, unlabelled = _detector_sources(data) if spec.side == 0 else _judge_sources(data)
    turns = [t for c in corpus.self_dialogue(data) if c and not is_held_out(c) for t in c if mine(t)]
    meetings = [t for meeting in corpus.qmsum(data) for t in meeting if len(t) > 20 and mine(t)]
    rng.shuffle(turns)
    rng.shuffle(meetings)
    first, second = spec.dialogue_turns, spec.dialogue_turns + spec.unlabelled_turns
    rows += own + plain_rows(turns[:first], "self_dialogue") + plain_rows(meetings[: spec.meeting_turns], "qmsum")
    rows += sentences(spec.side, 1600, spec.seed)
    return Texts(rows, unlabelled + turns[first:second], turns[second : second + 100_000])


def sharpened(row: Labelled, sharpness: float) -> Labelled:
    """The row with its target moved away from 1/2 by the factor ``sharpness``, within [0, 1]."""
    return replace(row, target=min(1.0, max(0.0, 0.5 + sharpness * (row.target - 0.5))))


def plain_rows(texts: Iterable[str], source: str, length: int = 300) -> list[Labelled]:
    """Texts that are harmless by their origin, cut to ``length`` characters."""
    return [Labelled(text[:length], 0.0, 1.0, source) for text in texts]


def _detector_sources(data: Path) -> tuple[list[Labelled], list[str]]:
    """Tweets, the toxic majority weighted down, and helpful dialogues."""
    tweets = [replace(row, weight=0.4 if row.target > 0.5 else 1.0) for row in corpus.davidson_tweets(data)]
    helpful = [turn for dialogue in corpus.helpful_dialogues(data) for turn in dialogue]
    return tweets + plain_rows(helpful, "hh_rlhf_helpful_seed"), []


def _judge_sources(data: Path) -> tuple[list[Labelled], list[str]]:
    """Abuse towards bots, replies and contexts labelled for safety, questions about stories, assistants' texts."""
    rows = corpus.convabuse(data)
    unlabelled = []
    for row in corpus.diasafety(data):
        unsafe = float(row["label"] == "Unsafe")
        if row["category"] == "Offending User":
            rows.append(Labelled(row["response"], 0.9 * unsafe, 1.0, "diasafety"))
        elif not unsafe:
            rows.append(Labelled(row["response"], 0.0, 0.5, "diasafety"))
        else:
            unlabelled.append(row["response"])  # unsafe for other reasons than rudeness
        if row["category"] == "Toxicity Agreement":  # there the label follows whether the context is toxic
            rows.append(Labelled(row["context"], 0.95 * unsafe, 2.0, "diasafety"))
        elif row["category"] == "Offending User":  # mostly provocations
            rows.append(Labelled(row["context"], 0.75, 0.5, "diasafety"))
        elif row["category"] in ("Unauthorized Expertise", "Risk Ignorance"):
            rows.append(Labelled(row["context"], 0.0, 1.0, "diasafety"))
        else:
            unlabelled.append(row["context"])
    questions = corpus.fairytale_questions(data)[::3]
    trees = [turn for dialogue in corpus.assistant_trees(data) for turn in dialogue]
    tasks = [part for pair in corpus.instructions(data) for part in pair]
    answers = [answer for _, answer in corpus.chatterbot(data)]
    chitchat = sorted({answer for _, answer in corpus.chitchat(data)})
    rows += plain_rows([part for pair in questions for part in pair], "fairytaleqa")
    rows += plain_rows(trees, "oasst_en100") + plain_rows(tasks, "self_instruct_seeds")
    rows += plain_rows(answers, "chatterbot_corpus") + plain_rows(chitchat, "chitchat_qna")
    return rows, unlabelled


def without(texts: Texts, taken: set[str]) -> Texts:
    """The texts whose normalised form is not in ``taken``."""
    free: Callable[[str], bool] = lambda text: corpus.normalised(text) not in taken  # noqa: E731
    return Texts(
        [row for row in texts.rows if free(row.text)],
        list(filter(free, texts.unlabelled)),
        list(filter(free, texts.plain)),
    )


def normalised_texts(texts: Texts) -> set[str]:
    """The normalised form of every text that a detector sees in any part of its training."""
    everything = [row.text for row in texts.rows] + texts.unlabelled + texts.plain
    return {corpus.normalised(text) for text in everything}


def gather_both(data: Path, seed: int) -> tuple[Texts, Texts]:
    """The texts of detector and judge, with no normalised text in common."""
    first, second = (gather(data, replace(spec, seed=spec.seed + seed)) for spec in (DETECTOR, JUDGE))
    return first, without(second, normalised_texts(first))


def train_tokenizer(texts: Sequence[str], spec: Spec) -> PreTrainedTokenizerFast:
    """Lower-casing byte-level BPE trained on the detector's own texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocabulary,
        min_frequency=3,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>", pair="<cls> $A <sep> $B <sep>", special_tokens=[("<cls>", CLS), ("<sep>", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=spec.max_tokens,
        pad_token="<pad>",
        cls_token="<cls>",
        sep_token="<sep>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def new_model(vocabulary: int, spec: Spec) -> torch.nn.Module:
    """An untrained encoder with mean pooling and two labels."""
    config = AutoConfig.for_model(
        "modernbert",
        vocab_size=vocabulary,
        hidden_size=spec.hidden,
        intermediate_size=spec.hidden * 3 // 2,
        num_hidden_layers=spec.layers,
        num_attention_heads=max(1, spec.hidden // 64),
        max_position_embeddings=2 * spec.max_tokens,
        global_attn_every_n_layers=1,
        classifier_pooling="mean",
        pad_token_id=PAD,
        cls_token_id=CLS,
        sep_token_id=SEP,
        bos_token_id=CLS,
        eos_token_id=SEP,
        mlp_dropout=0.1,
        attention_dropout=0.1,
        embedding_dropout=0.1,
        classifier_dropout=0.1,
        id2label=LABELS,
        label2id={name: index for index, name in LABELS.items()},
    )
    return AutoModelForSequenceClassification.from_config(config)


def embedding_of(model: Any) -> torch.nn.Parameter:
    """The (vocabulary, hidden) table of token vectors."""
    return model.base_model.get_input_embeddings().weight


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], limit: int, dropout: float = 0.0
) -> list[list[int]]:
    """Token ids per text, at most ``limit``; ``dropout`` skips merges at random, another spelling every time."""
    backend: Any = tokenizer.backend_tokenizer
    backend.model.dropout = dropout or None
    encoded = [e.ids for e in backend.encode_batch(list(texts))]
    backend.model.dropout = None
    return [ids if len(ids) <= limit else [*ids[: limit - 1], SEP] for ids in encoded]


def pad(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids padded on the right and the mask that is 1 on real tokens."""
    ids = torch.full((len(sequences), max(map(len, sequences))), PAD, dtype=torch.long)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    return ids, (ids != PAD).long()


def batches(ids: Sequence[Sequence[int]], size: int, rng: random.Random) -> Iterator[list[int]]:
    """Indices of random batches whose members have similar length."""
    order = list(range(len(ids)))
    rng.shuffle(order)
    chunks = [sorted(order[i : i + 50 * size], key=lambda j: len(ids[j])) for i in range(0, len(order), 50 * size)]
    groups = [chunk[k : k + size] for chunk in chunks for k in range(0, len(chunk), size)]
    rng.shuffle(groups)
    yield from groups


def fit(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Labelled], spec: Spec) -> float:
    """Trains in place on soft targets, linear warm-up and decay; returns the mean loss of the last tenth in nats."""
    rng = random.Random(spec.seed)
    device = next(model.parameters()).device
    embedding = embedding_of(model)
    matrices = [p for p in model.parameters() if p.ndim > 1 and p is not embedding]
    groups = [
        {"params": matrices, "weight_decay": 0.05, "scale": 1.0},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0, "scale": 1.0},
        {"params": [embedding], "weight_decay": 0.01, "scale": 0.3},  # keeps the geometry of the word vectors
    ]
    optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate, betas=(0.9, 0.98))
    texts, target = [row.text for row in rows], torch.tensor([row.target for row in rows])
    weight = torch.tensor([row.weight for row in rows])
    steps, step, losses = max(1, int(spec.epochs * len(rows) / spec.batch)), 0, []
    model.train()
    while step < steps:
        ids = encode(tokenizer, texts, spec.max_tokens, spec.merge_dropout)
        for chosen in batches(ids, spec.batch, rng):
            if step == steps:
                break
            rate = spec.learning_rate * min(1.0, (step + 1) / min(200, steps)) * (1 - step / steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            x, mask = pad([ids[j] for j in chosen])
            x = torch.where((torch.rand(x.shape) < spec.token_dropout) & (x > MASK), MASK, x)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                logits = model(input_ids=x.to(device), attention_mask=mask.to(device)).logits.float()
            goal = (0.98 * target[chosen] + 0.01).to(device)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits[:, 1] - logits[:, 0], goal, weight=weight[chosen].to(device)
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
    model.eval()
    return float(np.mean(losses[-max(1, steps // 10) :]))


@torch.no_grad()
def logits_of(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], limit: int = 128
) -> np.ndarray:
    """(B,) log-odds of hate, in float32."""
    device = next(model.parameters()).device
    ids = encode(tokenizer, texts, limit)
    scores = np.zeros(len(texts))
    order = sorted(range(len(texts)), key=lambda j: len(ids[j]))
    for i in range(0, len(order), 128):
        chosen = order[i : i + 128]
        x, mask = pad([ids[j] for j in chosen])
        logits = model(input_ids=x.to(device), attention_mask=mask.to(device)).logits.float()
        scores[chosen] = (logits[:, 1] - logits[:, 0]).cpu().numpy()
    return scores


def calibrate(
    model: torch.nn.Module, scores: np.ndarray, rows: Sequence[Labelled], plain: np.ndarray
) -> dict[str, float]:
    """Folds a temperature and, if needed, a shift into the classifier; returns both.

    The temperature minimises cross-entropy on held-out rows (``scores``); the shift lowers the log-odds until less than
    1 % of ``plain``, held-out dialogue, lies above 0.
    """
    target, weight = np.array([r.target for r in rows]), np.array([r.weight for r in rows])

    def cross_entropy(temperature: float) -> float:
        z = scores / temperature
        return float(np.average(np.logaddexp(0, z) - target * z, weights=weight))

    temperature = min(np.geomspace(0.4, 2.5, 61), key=cross_entropy)
    shift = -max(0.0, float(np.quantile(plain, 0.99)) / temperature)
    head: Any = model.classifier
    with torch.no_grad():
        head.weight /= temperature
        head.bias /= temperature
        head.bias += torch.tensor([-shift / 2, shift / 2], device=head.bias.device)
    return {"temperature": float(temperature), "shift": shift}


def train(texts: Texts, spec: Spec, plain: Sequence[str], out: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Trains one detector into the folder ``out``; returns its training metrics.

    1. a twentieth of the rows is held out; 2. the linear teacher softens labels and labels the rest;
    3. tokenizer and word vectors; 4. the encoder learns; 5. it is calibrated on the held-out rows and ``plain``.
    """
    torch.manual_seed(spec.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # 1
    kept_out = [row for row in texts.rows if corpus.fraction(row.text, "calibrate") < 0.05]
    rows = [row for row in texts.rows if corpus.fraction(row.text, "calibrate") >= 0.05]
    # 2
    softened, guessed = teach(rows, texts.unlabelled, spec.seed)
    share = spec.teacher_share
    taught = [replace(r, target=float((1 - share) * r.target + share * p)) for r, p in zip(rows, softened, strict=True)]
    taught += [Labelled(t, float(p), 0.5, "teacher") for t, p in zip(texts.unlabelled, guessed, strict=True)]
    log(f"{spec.name}: {len(rows)} labelled and {len(texts.unlabelled)} unlabelled texts, teacher done")
    # 3
    everything = [row.text for row in taught] + texts.plain
    tokenizer = train_tokenizer(everything, spec)
    model = new_model(len(tokenizer), spec).to(device)
    bodies = [ids[1:-1] for ids in encode(tokenizer, everything, spec.max_tokens)]
    vectors = word_vectors(bodies, len(tokenizer), spec.hidden, spec.seed)
    embedding = embedding_of(model)
    embedding.data.copy_(torch.tensor(0.05 * vectors / vectors.std()))
    log(f"{spec.name}: tokenizer of {len(tokenizer)} and word vectors done")
    # 4
    loss = fit(model, tokenizer, taught, spec)
    # 5
    scores = logits_of(model, tokenizer, [row.text for row in kept_out])
    calibration = calibrate(model, scores, kept_out, logits_of(model, tokenizer, plain))
    save(model, tokenizer, out)
    log(f"{spec.name}: trained, loss {loss:.4f}, {calibration}")
    sources = sorted({row.source for row in texts.rows})
    counts = {source: sum(row.source == source for row in texts.rows) for source in sources}
    return {"seed": spec.seed, "rows": counts, "unlabelled": len(texts.unlabelled), "loss": loss, **calibration}


def save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes weights in half precision under a configuration that loads them as float32."""
    out.mkdir(parents=True, exist_ok=True)
    whole: Any = model
    whole.half().cpu().save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = out / "config.json"
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
    whole.float()


def build(data: Path, out: Path, seed: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Trains detector and judge into ``out/detector`` and ``out/judge``; returns their training metrics."""
    specs = [replace(spec, seed=spec.seed + seed) for spec in (DETECTOR, JUDGE)]
    first, second = gather_both(data, seed)
    seen = normalised_texts(first) | normalised_texts(second)
    plain = [turn for turn in held_out_dialogue(data) if corpus.normalised(turn) not in seen][::2]  # the others: checks
    return {
        spec.name: train(texts, spec, plain, out / spec.name, log)
        for spec, texts in zip(specs, (first, second), strict=True)
    }
