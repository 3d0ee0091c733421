"""The settings of the behavioural evaluations: `config.evals`."""

from welfare_jax.evals.evaluations import EVALUATIONS
from welfare_jax.settings import Setting, defaults


def tree() -> dict:
    """The behavioural evaluations, in the paper's numbers but on the package's own small sets; none runs unnamed."""
    judged = [name for name, e in EVALUATIONS.items() if e.judge == "verdict"]
    others = [name for name in EVALUATIONS if name not in judged]
    return {
        "names": Setting(
            (),
            f"of {', '.join(judged)} (judged); {', '.join(others)} (no judge needed)",
        ),
        "trained": Setting("", "a model, or the folder of a run; empty: this folder's newest checkpoint, if any"),
        "vectors": Setting(
            (), 'run folders, vector files, "maze", "stories"; empty: this folder\'s vectors, or else "maze"'
        ),
        "baseline": Setting("rest", 'of the class vectors; or "path"'),
        "layers": Setting("chosen", 'each vector\'s own; "all" (the layer sweep); or "12,17"'),
        "alphas": (-4.0, -2.0, 0.0, 2.0, 4.0),
        "where": Setting(("assistant",), "and any of generation, readout, prompt"),
        "permuted": Setting(0, "vectors of permuted labels beside every vector, 100 at most from a run's folder"),
        "random": Setting(0, "norm-matched random directions"),
        "orthogonal": Setting(0, "and orthogonal ones"),
        "sample": Setting(1.0, "share of every prompt category, for a quick look"),
        "batch": 64,
        "buckets": Setting(4, "widths that prompts are padded to, each one compilation"),
        "judge": {
            "kind": Setting(
                "model", 'or "endpoint", "recorded" (a file of judgements), "words" (counts words, no model)'
            ),
            "path": "Qwen/Qwen3-8B",
            "dtype": "bfloat16",
            "batch": 64,
            "second": Setting("", "judgements of another judge, or of a person; the report shows their agreement"),
            "thinking": True,
            "thinking_tokens": Setting(2048, "only where an evaluation asks for it"),
            "max_new_tokens": 32,
            "url": Setting("", "of an OpenAI-compatible endpoint"),
            "model": "",
            "key_env": Setting("OPENAI_API_KEY", "the environment variable that its key is read from"),
            "retries": 5,
            "wait": 1.0,
            "timeout": 60.0,
            "body": Setting(
                "",
                'fields of the request, a JSON object: they are added or replace "temperature" and "max_tokens", and '
                'null leaves one out, for example {"max_tokens": null, "max_completion_tokens": 64}',
            ),
            "per_minute": 300.0,
            "parallel": 8,
            "price_in": Setting(0.0, "dollars a million tokens"),
            "price_out": Setting(0.0, "dollars a million tokens"),
            "max_cost": Setting(0.0, "dollars: refuse above; 0: never"),
        },
    } | {name: e.settings for name, e in EVALUATIONS.items()}


def evals() -> dict:
    """The section of that name alone, as plain values."""
    return defaults(tree())
