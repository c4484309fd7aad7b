"""humanward: align a language model with what people prefer, and prove what changed."""

__version__ = "0.1.0"
