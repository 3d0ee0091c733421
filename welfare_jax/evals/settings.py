"""The settings of the behavioural evaluations: `config.evals`."""

import dataclasses
import json

from welfare_jax.errors import InputError
from welfare_jax.evals.evaluations import EVALUATIONS
from welfare_jax.settings import Setting, check, defaults, setting
from welfare_jax.settings import tree as settings_of


@dataclasses.dataclass(frozen=True)
class JudgeSettings:
    """Who judges, and how it is asked."""

    kind: str = setting(
        "model", 'or "endpoint", "recorded" (a file of judgements), "words" (counts words, no model)',
        choices=("model", "endpoint", "recorded", "words"),
    )  # fmt: skip
    path: str = "Qwen/Qwen3-8B"
    dtype: str = "bfloat16"
    batch: int = 64
    second: str = setting("", "judgements of another judge, or of a person; the report shows their agreement")
    thinking: bool = True
    thinking_tokens: int = setting(2048, "only where an evaluation asks for it")
    max_new_tokens: int = 32
    url: str = setting("", "of an OpenAI-compatible endpoint")
    model: str = ""
    key_env: str = setting("OPENAI_API_KEY", "the environment variable that its key is read from")
    retries: int = 5
    wait: float = 1.0
    timeout: float = 60.0
    body: str = setting(
        "",
        'fields of the request, a JSON object: they are added or replace "temperature" and "max_tokens", and null '
        'leaves one out, for example {"max_tokens": null, "max_completion_tokens": 64}',
    )
    per_minute: float = 300.0
    parallel: int = 8
    price_in: float = setting(0.0, "dollars a million tokens")
    price_out: float = setting(0.0, "dollars a million tokens")
    max_cost: float = setting(0.0, "dollars: refuse above; 0: never")

    def __post_init__(self):
        check(self)
        if self.kind == "endpoint":
            if not self.url or not self.model:
                raise InputError(
                    f"url={self.url!r}, model={self.model!r}: an endpoint needs both, the first ending in /v1"
                )
            if not self.url.startswith(("http://", "https://")):
                raise InputError(f"url={self.url!r}: need an address that begins with http:// or https://")
            _ = self.fields

    @property
    def fields(self) -> dict:
        """Those of `body`."""
        try:
            found = json.loads(self.body or "{}")
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.keys() & {"model", "messages", "stream", "n"}:
            raise InputError(f"body={self.body!r}: need a JSON object, without model, messages, stream and n")
        return found


@dataclasses.dataclass(frozen=True)
class Evals:
    """What is evaluated and steered with; beside the settings of the judge and of every evaluation."""

    names: tuple[str, ...] = ()
    trained: str = setting("", "a model, or the folder of a run; empty: this folder's newest checkpoint, if any")
    vectors: tuple[str, ...] = setting(
        (), 'run folders, vector files, "maze", "stories"; empty: this folder\'s vectors, or else "maze"'
    )
    baseline: str = setting("rest", 'of the class vectors; or "path"')
    layers: str = setting("chosen", 'each vector\'s own; "all" (the layer sweep); or "12,17"')
    alphas: tuple[float, ...] = (-4.0, -2.0, 0.0, 2.0, 4.0)
    where: tuple[str, ...] = setting(("assistant",), "and any of generation, readout, prompt")
    permuted: int = setting(
        0, "vectors of permuted labels beside every vector, 100 at most from a run's folder", least=0
    )
    random: int = setting(0, "norm-matched random directions", least=0)
    orthogonal: int = setting(0, "and orthogonal ones", least=0)
    sample: float = setting(1.0, "share of every prompt category, for a quick look")
    batch: int = setting(64, least=1)
    buckets: int = setting(4, "widths that prompts are padded to, each one compilation", least=1)

    def __post_init__(self):
        check(self)
        if bad := [n for n in self.names if n not in EVALUATIONS]:
            raise InputError(f"names={bad[0]!r}: there is no such evaluation (known: {', '.join(EVALUATIONS)})")


def tree() -> dict:
    """The behavioural evaluations, in the paper's numbers but on the package's own small sets; none runs unnamed."""
    judged = [name for name, e in EVALUATIONS.items() if e.judge == "verdict"]
    others = [name for name in EVALUATIONS if name not in judged]
    names = Setting((), f"of {', '.join(judged)} (judged); {', '.join(others)} (no judge needed)")
    own = {name: settings_of(e.settings) for name, e in EVALUATIONS.items()}
    return settings_of(Evals) | {"names": names, "judge": settings_of(JudgeSettings)} | own


def evals() -> dict:
    """The section of that name alone, as plain values."""
    return defaults(tree())
