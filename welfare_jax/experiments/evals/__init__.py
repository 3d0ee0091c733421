"""Behavioural evaluations of a model under steering, or in the folder of a finished run."""
