"""What a run showed: one self-contained `report.html` with figures and maze replays, and its numbers as CSV."""

from welfare_jax.report.page import write

__all__ = ["write"]
