"""Everything that knows about tokens."""
