"""Where real tokenizers and prompt sets lie, beside a checkout; tests that need them skip where they do not."""

import pathlib

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"
