"""The settings `axes`. Nothing here imports JAX, because config files import it."""

import dataclasses

from welfare_jax.errors import InputError
from welfare_jax.settings import setting

KINDS = ("reviews", "prompts", "assent", "emotions", "success")


@dataclasses.dataclass(frozen=True)
class AxesSettings:
    kinds: str = setting(
        "reviews,prompts,assent,emotions",
        "what to compare with, empty for nothing; also success: accounts and walks under a goal",
    )
    # Files; where empty, the small samples of the package.
    reviews: str = ""
    prompts: str = ""
    statements: str = ""
    emotions: str = ""
    topics: str = ""
    dialogues: str = ""
    limit: int = setting(400, "at most so many texts; 0: all")
    emotions_limit: int = setting(0, "at most so many words; 0: all")
    topics_limit: int = setting(100, "at most so many topics; 0: all")
    stories: int = setting(12, "of each emotion and topic")
    max_new_tokens: int = 200
    first_token: int = setting(50, "stories are averaged from this token on")
    max_tokens: int = 512
    batch: int = 32

    def __post_init__(self):
        if odd := [kind for kind in self.asked if kind not in KINDS]:
            raise InputError(f"kinds: {odd[0]!r} is unknown: choose from {', '.join(KINDS)}")

    @property
    def asked(self) -> list[str]:
        """What `kinds` lists."""
        return [kind.strip() for kind in self.kinds.split(",") if kind.strip()]
