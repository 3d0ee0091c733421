"""Pages of runs: one self-contained `report.html` with figures and maze replays, and its numbers as CSV."""
