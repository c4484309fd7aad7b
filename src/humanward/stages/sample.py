"""Stage 1: K completions for each prompt, from the policy as it is before training."""

from __future__ import annotations

import time

from humanward.models.sampling import sample
from humanward.records import Completion, content_id, write_jsonl
from humanward.stages.context import SAMPLE_SEED, Run


def run_sample(run: Run) -> None:
    """Write completions.jsonl: ``feedback.completions_per_prompt`` answers to at most ``feedback.prompts`` prompts."""
    started = time.perf_counter()
    base, config = run.base(), run.config
    prompts = run.prompts("train")[: config.feedback.prompts]
    k = config.feedback.completions_per_prompt
    ids = [base.prompt_ids(prompt) for prompt in prompts for _ in range(k)]
    keys = [f"{prompt.id}\x1f{number}" for prompt in prompts for number in range(k)]
    with run.reporter.track("sample", len(ids)) as tracker, base.role("reference"):
        responses = sample(base, ids, keys, config.sampling, seed=run.seed(SAMPLE_SEED), progress=tracker.at)
    settings = {**config.sampling.model_dump(exclude={"batch_size"}), "seed": run.seed(SAMPLE_SEED)}
    completions = []
    for index, response in enumerate(responses):
        prompt, number = prompts[index // k], index % k
        text = base.response_text(response.ids, config.sampling.stop)
        completions.append(
            Completion(
                id=content_id(prompt.id, str(number), text),
                prompt_id=prompt.id,
                text=text,
                model=base.name,
                ended=response.ended,
                sampling={**settings, "number": number},
            )
        )
    write_jsonl(run.folder.file("completions.jsonl"), completions)
    run.folder.finish("sample", time.perf_counter() - started, completions=len(completions), prompts=len(prompts))
