"""python docs/parity.py [--out FILE] [CASE ...]: every family beside `transformers` and `peft`, as a table.

Each variant of tests/variants.py becomes a small random model of `transformers` with an awkward shape, which is saved,
loaded here, and compared in float32: logits, 16 greedy tokens, LoRA adapters out and in, and the folder written back.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import sys
import tempfile
import warnings

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"  # compiling is most
ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import peft as peft_lib  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from helpers import hf_model, padded, run, save, torch_run  # noqa: E402
from tqdm import tqdm  # noqa: E402
from variants import CASES  # noqa: E402

from welfare_jax.models import generate, hf, hf_save, lora, peft  # noqa: E402
from welfare_jax.models.layers import Lora  # noqa: E402

TEXTS = padded((11, 7, 4), "-ll", 11)  # as a cache takes them: rows end together
NEW = 16
ENOUGH = 1e-4  # of the spread of the logits
EXPERTS = ("gpt_oss", "qwen3_moe")  # PEFT has adapters for their attention only
PAGE = """# Parity with transformers and peft

Made by `python docs/parity.py --out docs/parity.md`, with transformers {transformers}, peft {peft}, torch {torch} and
JAX {jax} on one CPU, in float32. Each line is a small random model of `transformers` with an awkward shape (odd
numbers of heads, windows shorter than the text, rows padded at the left), saved, and loaded by this package:

- *logits*: the largest difference over all positions, as a fraction of the logits' standard deviation;
- *greedy*: whether {new} tokens generated through the cache are the same;
- *peft*: whether LoRA adapters written by `wj.save_peft` run in `peft` with the same logits, and add the same to
  the weights when `peft` has saved them again and `wj.load_peft` has read them;
- *back*: whether `transformers` reads the folder that `wj.save_hf` writes, with the same logits.

The largest difference is {worst:.1e}.

| `model_type` | variant | logits | greedy | peft | back |
| --- | --- | --- | --- | --- | --- |
{rows}

Looked at and refused, in one line that names the type and what is supported:

{refused}
"""
REFUSED = {
    ("gemma4", "gemma4_text"): "layers that see everything have another head width than local ones, and several "
    "layers share keys and values",
    ("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_next"): "three of four layers are linear attention, whose "
    "recurrent state cannot be held in a cache by slots",
}


def base(folder):
    """The saved model, read by `transformers`."""
    auto = transformers.AutoModelForCausalLM
    if "text_config" in hf.raw_config(folder):
        auto = transformers.AutoModelForImageTextToText
    return auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def theirs(model) -> np.ndarray:
    with torch.no_grad():
        return torch_run(model, *TEXTS)[0].numpy()[TEXTS[1]]


def ours(lm) -> np.ndarray:
    return np.asarray(run(lm.graphdef, lm.params, TEXTS[0], mask=TEXTS[1]).logits)[TEXTS[1]]


def apart(got, want) -> float:
    """The largest difference, as a fraction of the spread of what it should be."""
    return float(np.abs(got - want).max() / want.std())


def greedy(lm, model) -> bool:
    tokens, mask = TEXTS
    new, _ = generate.generate(lm.graphdef, lm.params, tokens, mask, jax.random.key(0), max_new_tokens=NEW)
    model.generation_config.update(eos_token_id=None, pad_token_id=0, do_sample=False, max_new_tokens=NEW)
    with torch.no_grad():
        want = model.generate(torch.as_tensor(tokens, dtype=torch.long), attention_mask=torch.as_tensor(mask).long())
    return np.array_equal(np.asarray(new), want[:, tokens.shape[1] :].numpy())


def adapters(lm, kind: str, folder) -> bool:
    """Out to `peft`, which saves them again, and in."""
    targets = {"targets": "attn/.*"} if kind in EXPERTS else {}
    graphdef, params = lora.attach(lm.graphdef, lm.params, Lora(rank=3, alpha=6.0, **targets), jax.random.key(0))
    rng = np.random.default_rng(0)
    move = lambda path, x: x + 0.2 * rng.normal(size=x.shape).astype("f4") if path[-1].key == "lora_b" else x
    mine = dataclasses.replace(lm, graphdef=graphdef, params=jax.tree_util.tree_map_with_path(move, params))
    peft.save_peft(mine, folder / "out")
    model = peft_lib.PeftModel.from_pretrained(base(folder / "model"), folder / "out")
    moved = apart(ours(mine), ours(lm)) > 0.1 and apart(ours(mine), theirs(model.base_model.model)) < ENOUGH
    model.save_pretrained(folder / "again")
    whole = (lora.merge(m.graphdef, m.params)[1] for m in (mine, peft.load_peft(lm, folder / "again")))
    same = jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), *whole))
    return moved and same


def compare(case: str, folder) -> dict:
    kind, changes = CASES[case]
    model = hf_model(kind, **changes)
    lm = hf.load(save(model, folder / "model"))
    want = theirs(model)
    hf_save.save_hf(lm, folder / "back")
    return {
        "type": model.config.model_type, "logits": apart(ours(lm), want), "greedy": greedy(lm, model),
        "peft": adapters(lm, kind, folder), "back": apart(theirs(base(folder / "back")), want) < ENOUGH,
    }  # fmt: skip


def page(found: dict[str, dict]) -> str:
    said = lambda value: f"{value:.0e}" if isinstance(value, float) else "yes" if value else "**no**"
    rows = (
        f"| `{r['type']}` | {case} | {' | '.join(said(r[k]) for k in ('logits', 'greedy', 'peft', 'back'))} |"
        for case, r in found.items()
    )
    versions = {m.__name__: m.__version__ for m in (transformers, peft_lib, torch, jax)}
    refused = (f"- {', '.join(f'`{kind}`' for kind in kinds)}: {why}" for kinds, why in REFUSED.items())
    return PAGE.format(
        **versions, new=NEW, worst=max(r["logits"] for r in found.values()), rows="\n".join(rows),
        refused="\n".join(refused),
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="some of tests/variants.py; all where none is named")
    parser.add_argument("--out", help="where the page is written; else it is printed")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    found = {}
    for case in tqdm(args.cases or CASES):
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(sys.stderr):
                found[case] = compare(case, pathlib.Path(folder))
    text = page(found)
    pathlib.Path(args.out).write_text(text) if args.out else print(text)


if __name__ == "__main__":
    main()
