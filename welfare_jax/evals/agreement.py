"""python -m welfare_jax.evals.agreement A.jsonl B.jsonl [--json]: how well two judges agree.

Both files are journals of judgements (`evals/judgements.jsonl` of two runs, or one of them filled in by a person);
answers are matched by `about`, the hash of evaluation, prompt and answer.
"""

import json
import sys

from welfare_jax.errors import InputError
from welfare_jax.evals import journal, stats

NEEDED = {"about", "evaluation", "verdict"}


def compare(a: dict, b: dict) -> list[dict]:
    """One row an evaluation: {"evaluation", "both", "only_one", "unparseable", "percent", "kappa", "kappa_low",
    "kappa_high", "pearson"}; kappa's 95 % interval is over prompts.

    a, b: journals by key. Verdicts that either judge left unparseable are counted and left out of the agreement;
    kappa is over labels (a score is a label too), pearson over the pairs in which both are numbers.
    """
    left, right = ({row["about"]: row for row in rows.values() if row.keys() >= NEEDED} for rows in (a, b))
    out = []
    for evaluation in dict.fromkeys(row["evaluation"] for row in [*left.values(), *right.values()]):
        mine, theirs = ({k for k, r in side.items() if r["evaluation"] == evaluation} for side in (left, right))
        pairs = [(left[k]["verdict"], right[k]["verdict"], left[k].get("prompt", k)) for k in sorted(mine & theirs)]
        told = [(x, y, prompt) for x, y, prompt in pairs if x is not None and y is not None]
        numbers = [(x, y) for x, y, _ in told if isinstance(x, int | float) and isinstance(y, int | float)]
        x, y, prompts = zip(*told) if told else ((), (), ())
        kappa, low, high = stats.kappa_interval(x, y, prompts)
        out.append({
            "evaluation": evaluation, "both": len(pairs), "only_one": len(mine ^ theirs),
            "unparseable": len(pairs) - len(told), "percent": 100 * stats.percent(x, y), "kappa": kappa,
            "kappa_low": low, "kappa_high": high,
            "pearson": stats.pearson(*zip(*numbers)) if numbers else float("nan"),
        })  # fmt: skip
    return out


def main(argv) -> int:
    paths = [a for a in argv if not a.startswith("--")]
    try:
        if len(paths) != 2 or set(argv) - set(paths) - {"--json"}:
            raise InputError("usage: python -m welfare_jax.evals.agreement A.jsonl B.jsonl [--json]")
        a, b = (journal.read(p) for p in paths)
        for path, rows in zip(paths, (a, b)):
            if not rows:
                raise InputError(f"{path}: there are no judgements")
        found = compare(a, b)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "--json" in argv:
        print(json.dumps(found))
        return 0
    head = f"{'evaluation':14}{'both':>7}{'one only':>10}{'unparseable':>13}{'agree':>9}{'kappa':>8}"
    print(f"{head}{'low':>7}{'high':>7}{'pearson':>9}")
    for r in found:
        print(
            f"{r['evaluation']:14}{r['both']:7}{r['only_one']:10}{r['unparseable']:13}{r['percent']:8.1f}%"
            f"{r['kappa']:8.2f}{r['kappa_low']:7.2f}{r['kappa_high']:7.2f}{r['pearson']:9.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
