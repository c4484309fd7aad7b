"""Everything that knows about tokens."""

import logging

# PEFT imports bitsandbytes wherever it is installed, which then reports on CPUs a kernel that it would like to download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
