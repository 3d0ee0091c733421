"""Imitation over lambda: what the task gains, what diversity costs, what the implied rewards are worth."""
