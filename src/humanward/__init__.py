"""humanward: align a language model with what people prefer, and prove what changed."""

import logging

__version__ = "0.1.0"

# PEFT imports bitsandbytes wherever it is installed, which then reports a CPU kernel that it would like to download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
