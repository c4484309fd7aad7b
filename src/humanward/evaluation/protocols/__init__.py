"""Published evaluation protocols on any number of models that answered the same prompts. Sees no stage and no network
but the judge model's endpoint. How to read the numbers: docs/evaluation.md.
"""
