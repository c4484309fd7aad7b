"""The stages of a run: each reads files of the run directory, writes its own and records that it has finished."""
