"""Algorithms that learn from preferences alone, without sampling: sft, dpo, ipo, orpo, kto."""
