"""python docs/torch_baseline.py: the small shape's rollout, update and extraction in plain PyTorch, as a yardstick.

The same layers as `python -m welfare_jax.bench` measures, written as one would tune them for a CPU: scaled dot-product
attention, a key-value cache, four rows of the unembedding, the heap kept; and the last layer only where it is read,
or with `--whole` all of it, as a model has it that is not written for this (forward hooks read every layer whole).
Every turn has 56 tokens, so nothing is spent on padding. `--peft` instead times the update of a Qwen3 of this shape by
`transformers` and PEFT. Prints one JSON object; needs the `test` extra.

On AMD processors PyTorch's MKL takes kernels of half the rate unless it is told that they are Intel's:

    echo 'int mkl_serv_intel_cpu_true() { return 1; }' | gcc -shared -fPIC -x c -o /tmp/mkl.so -
    LD_PRELOAD=/tmp/mkl.so python docs/torch_baseline.py
"""

import argparse
import functools
import json
import statistics
import time

import torch
import torch.nn.functional as F

from welfare_jax import runtime

VOCAB, RANK, TURNS, TOKENS = 151_936, 32, 15, 56
SHAPE = {"layers": 4, "width": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "mlp": 768, "episodes": 32}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--whole", action="store_true", help="compute the last layer at every position")
    parser.add_argument("--peft", action="store_true", help="the update alone, by transformers and PEFT")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--only", choices=("rollout", "update", "extract"), help="one of the three")
    for name, default in SHAPE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser.parse_args()


ARGS = arguments()
LAYERS, WIDTH, HEADS, KV, HEAD, MLP, EPISODES = (getattr(ARGS, name) for name in SHAPE)
SHAPES = {
    "q": (WIDTH, HEADS * HEAD), "k": (WIDTH, KV * HEAD), "v": (WIDTH, KV * HEAD), "o": (HEADS * HEAD, WIDTH),
    "gate": (WIDTH, MLP), "up": (WIDTH, MLP), "down": (MLP, WIDTH),
}  # fmt: skip


class Model:
    def __init__(self, adapters: bool, whole: bool):
        self.whole = whole
        self.embed = torch.randn(VOCAB, WIDTH) * WIDTH**-0.5
        self.kernels = [{n: torch.randn(o, i) * i**-0.5 for n, (i, o) in SHAPES.items()} for _ in range(LAYERS)]
        self.adapters = [
            {
                n: (torch.randn(RANK, i, requires_grad=True), torch.zeros(o, RANK, requires_grad=True))
                for n, (i, o) in SHAPES.items()
            }
            for _ in range(LAYERS if adapters else 0)
        ]
        angle = torch.outer(torch.arange(TURNS * TOKENS + 1.0), 1e6 ** -(torch.arange(0, HEAD, 2) / HEAD))
        self.cos, self.sin = angle.cos(), angle.sin()

    def linear(self, layer, name, x):
        y = F.linear(x, self.kernels[layer][name])
        if self.adapters:
            a, b = self.adapters[layer][name]
            y = y + F.linear(F.linear(x, a), 2.0 * b)
        return y

    def heads(self, layer, name, x, at):
        y = self.linear(layer, name, x).unflatten(-1, (-1, HEAD)).transpose(1, 2)
        if name == "v":
            return y
        y = F.rms_norm(y, (HEAD,), eps=1e-6)
        c, s = self.cos[at], self.sin[at]
        a, b = y.chunk(2, -1)
        return torch.cat((a * c - b * s, b * c + a * s), -1)

    def block(self, layer, x, at, cache=None, last=None):
        """`last`: positions that alone are needed of this block, which is [B, P, width] then."""
        if last is not None and self.whole:
            return self.block(layer, x, at, cache)[:, last]
        h = F.rms_norm(x, (WIDTH,), eps=1e-6)
        k, v = (self.heads(layer, n, h, at) for n in ("k", "v"))
        start = 0
        if cache is not None:
            start = int(at[0])
            end = start + len(at)
            cache[0][:, :, start:end], cache[1][:, :, start:end] = k, v
            k, v = cache[0][:, :, :end], cache[1][:, :, :end]
        where = at
        if last is not None:
            h, x, where = h[:, last], x[:, last], at[last]
        mask = None
        if cache is not None or last is not None:
            mask = torch.arange(k.shape[2]) <= where[:, None]
        out = F.scaled_dot_product_attention(
            self.heads(layer, "q", h, where), k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        x = x + self.linear(layer, "o", out.transpose(1, 2).flatten(2))
        h = F.rms_norm(x, (WIDTH,), eps=1e-6)
        return x + self.linear(layer, "down", F.silu(self.linear(layer, "gate", h)) * self.linear(layer, "up", h))

    def answers(self, x):
        return F.linear(F.rms_norm(x, (WIDTH,), eps=1e-6), self.embed[:4])


@torch.no_grad()
def rollout(model):
    cache = [[torch.empty(EPISODES, KV, TURNS * TOKENS, HEAD) for _ in range(2)] for _ in range(LAYERS)]
    for t in range(TURNS):
        at = torch.arange(t * TOKENS, (t + 1) * TOKENS)
        x = F.embedding(torch.randint(1000, (EPISODES, TOKENS)), model.embed)
        for i in range(LAYERS):
            x = model.block(i, x, at, cache[i], torch.tensor([TOKENS - 1]) if i == LAYERS - 1 else None)
        torch.multinomial(model.answers(x[:, -1]).softmax(-1), 1)
    return {"tokens_per_s": EPISODES * TURNS * TOKENS}


def update(model, micro: int = 4):
    read = torch.arange(TURNS) * TOKENS + TOKENS - 1
    for _ in range(EPISODES // micro):
        x = F.embedding(torch.randint(1000, (micro, TURNS * TOKENS)), model.embed)
        for i in range(LAYERS):
            x = model.block(i, x, torch.arange(TURNS * TOKENS), None, read if i == LAYERS - 1 else None)
        model.answers(x).log_softmax(-1)[..., 0].mean().backward()
    for layer in model.adapters:
        for pair in layer.values():
            for weight in pair:
                weight.grad = None
    return {"tokens_per_s": EPISODES * TURNS * TOKENS}


@torch.no_grad()
def extract(model, per_length: int = 12):
    """Walks of 1 to 15 turns, read at the last token after every block."""
    total = torch.zeros(LAYERS, WIDTH)
    for turns in range(1, TURNS + 1):
        at = torch.arange(turns * TOKENS + 1)
        x = F.embedding(torch.randint(1000, (per_length, len(at))), model.embed)
        for i in range(LAYERS):
            x = model.block(i, x, at, None, at[-1:] if i == LAYERS - 1 else None)
            total[i] += x[:, -1].sum(0)
    return {"trajectories_per_s": per_length * TURNS}


def peft_model():
    import peft
    import transformers

    config = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=HEAD, tie_word_embeddings=True,
    )  # fmt: skip
    adapters = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    return peft.get_peft_model(transformers.Qwen3ForCausalLM(config), adapters)


def peft_update(model, micro: int = 4):
    """`update` of a model that computes everything but the logits that nobody reads."""
    read, causal = torch.arange(TURNS) * TOKENS + TOKENS - 1, model.base_model.model
    for _ in range(EPISODES // micro):
        tokens = torch.randint(1000, (micro, TURNS * TOKENS))
        hidden = causal.model(input_ids=tokens, use_cache=False).last_hidden_state[:, read]
        F.linear(hidden, causal.lm_head.weight[:4]).log_softmax(-1)[..., 0].mean().backward()
    model.zero_grad()
    return {"tokens_per_s": EPISODES * TURNS * TOKENS}


def main():
    args = ARGS
    runtime.keep_heap()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    out = {"torch": torch.__version__, "whole": args.whole or args.peft}
    runs = {rollout: False, update: True, extract: False}  # and whether with adapters
    makes = {run: functools.partial(Model, adapters, args.whole) for run, adapters in runs.items()}
    for run, make in ({peft_update: peft_model} if args.peft else makes).items():
        if args.only not in (None, run.__name__.removeprefix("peft_")):
            continue
        model, seconds = make(), []
        for _ in range(1 + args.repeats):
            begin = time.perf_counter()
            amount = run(model)
            seconds.append(time.perf_counter() - begin)
        median = statistics.median(seconds[1:])
        out[run.__name__] = {"seconds": round(median, 3)} | {k: round(v / median, 1) for k, v in amount.items()}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
