"""Small random models on both sides, transformers' in torch and this package's; the maze's rules in plain Python."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import torch

from welfare_jax.envs.maze import GOLD, MOLD, PATH
from welfare_jax.models import decoder, hf
from welfare_jax.models.spec import Rope, Spec

VOCAB = 61
_COMMON = dict(
    vocab_size=VOCAB, hidden_size=40, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
_GEMMA = dict(sliding_window=5, sliding_window_pattern=3, query_pre_attn_scalar=24, num_hidden_layers=4)
_VISION = dict(
    hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
)
# Multimodal models: transformers' name, the decoder inside by its own name in _MORE, what the outer config needs.
_AROUND = {
    "gemma3_vision": ("Gemma3", "gemma3", dict(mm_tokens_per_image=4, boi_token_index=58, eoi_token_index=59)),
    "mistral_vision": ("Mistral3", "mistral", {}),
    "ministral3_vision": ("Mistral3", "ministral3", {}),
}
MULTIMODAL = tuple(_AROUND)


_MORE = {  # per family: transformers' names and what its small model needs beside the common shape
    "qwen2": ("Qwen2", dict(num_attention_heads=5, num_key_value_heads=1, head_dim=12)),
    "qwen3": ("Qwen3", dict(rope_theta=1e4)),
    "llama": ("Llama", dict(rope_parameters=dict(
        rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32))),
    "mistral": ("Mistral", dict(sliding_window=5, num_attention_heads=5, num_key_value_heads=1, head_dim=12)),
    "ministral": ("Ministral", dict(num_hidden_layers=4, sliding_window=5, layer_types=[
        "sliding_attention", "full_attention", "sliding_attention", "sliding_attention"])),
    "ministral3": ("Ministral3", dict(rope_parameters=dict(
        rope_type="yarn", rope_theta=500.0, factor=8.0, beta_fast=4.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
        original_max_position_embeddings=6, llama_4_scaling_beta=0.4))),
    "qwen3_moe": ("Qwen3Moe", dict(
        num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True)),
    "gemma2": ("Gemma2", dict(
        sliding_window=5, query_pre_attn_scalar=24, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3Text", _GEMMA),
    "gpt_oss": ("GptOss", dict(
        num_local_experts=6, num_experts_per_tok=2, sliding_window=5, hidden_size=32, intermediate_size=24,
        swiglu_limit=0.8, rope_parameters=dict(
            rope_type="yarn", rope_theta=500.0, factor=8.0, beta_fast=4.0, beta_slow=1.0, truncate=False,
            original_max_position_embeddings=32))),
    "glm4": ("Glm4", {}),
    "glm": ("Glm", {}),
    "phi3": ("Phi3", dict(num_attention_heads=5, num_key_value_heads=1, sliding_window=9, rope_parameters=dict(
        rope_type="longrope", rope_theta=500.0, partial_rotary_factor=0.75, short_factor=[1.0, 1.1, 1.3],
        long_factor=[2.0, 3.0, 5.0]), original_max_position_embeddings=32)),
    "olmo2": ("Olmo2", dict(rms_norm_eps=1e-5)),
    "olmo3": ("Olmo3", dict(num_hidden_layers=4, sliding_window=5, rope_parameters=dict(
        full_attention=dict(
            rope_type="yarn", rope_theta=500.0, factor=8.0, beta_fast=4.0, beta_slow=1.0,
            original_max_position_embeddings=32),
        sliding_attention=dict(rope_type="default", rope_theta=500.0)))),
    "smollm3": ("SmolLM3", dict(num_hidden_layers=4, no_rope_layer_interval=2)),
    "granite": ("Granite", dict(
        embedding_multiplier=1.7, attention_multiplier=0.4, residual_multiplier=0.6, logits_scaling=0.7)),
    "internlm3": ("InternLM3", {}),
}  # fmt: skip
FAMILIES = tuple(_MORE)


def randomise(model, seed=0):
    """Every parameter far from where it starts: norms, biases and sinks too, and embeddings large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1 and "norm" in name:
                p.add_(0.3 * noise)
            elif "bias" in name or "sinks" in name:
                p.copy_(0.5 * noise)
            else:
                fan_in = p.shape[-2 if p.ndim == 3 else -1]
                p.copy_(noise * (0.5 if "embed" in name or "head" in name else fan_in**-0.5))
    return model.eval()


def hf_model(kind="qwen3", **changes):
    """A random transformers model of one of FAMILIES, or of MULTIMODAL (a decoder beside a vision tower)."""
    import transformers as t

    if kind in _AROUND:
        name, inner, more = _AROUND[kind]
        text = _COMMON | _MORE[inner][1] | changes
        tie = text.pop("tie_word_embeddings", True)
        text["model_type"] = getattr(t, _MORE[inner][0] + "Config").model_type
        config = getattr(t, name + "Config")(
            text_config=text, vision_config=_VISION, image_token_index=60, tie_word_embeddings=tie, **more
        )
        cls = getattr(t, name + "ForConditionalGeneration")
    else:
        name, more = _MORE[kind]
        common = _COMMON if kind != "phi3" else {k: v for k, v in _COMMON.items() if k != "head_dim"}
        settings = common | more | changes
        if settings.get("head_dim", 1) is None:
            del settings["head_dim"]
        config = getattr(t, name + "Config")(**settings)
        cls = t.AutoModelForCausalLM._model_mapping[type(config)]
    config._attn_implementation = "eager"
    return randomise(cls(config))


def save(model, folder, tokenizer_dir=None, **kw):
    """The folder `folder` with the model and, where given, a tokenizer's files."""
    model.save_pretrained(folder, **kw)
    for path in tokenizer_dir.iterdir() if tokenizer_dir else ():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit_config(folder, **changes):
    """Set attributes of config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def params(folder):
    """(graphdef, params, spec) of a folder that needs no tokenizer."""
    return hf.load_params(folder)


def padded(lengths=(19, 12, 7), sides="-lr", width=19, vocab=VOCAB, seed=0):
    """(tokens, mask) [B, width]; each row is full, padded at the left or padded at the right."""
    rng = np.random.default_rng(seed)
    tokens, mask = np.zeros((len(lengths), width), np.int32), np.zeros((len(lengths), width), bool)
    for row, (n, side) in enumerate(zip(lengths, sides)):
        at = slice(width - n, width) if side == "l" else slice(0, n)
        tokens[row, at], mask[row, at] = rng.integers(3, vocab - 5, n), True
    return tokens, mask


def run(graphdef, params, tokens, **kw):
    """The jitted forward: one compilation a structure, as users run it."""
    return _forward(graphdef, params, jnp.asarray(tokens), kw)


@jax.jit
def _forward(graphdef, params, tokens, kw):
    return decoder.forward(graphdef, params, tokens, **kw)


def torch_layers(model):
    """The decoder blocks of a transformers model, multimodal or not."""
    found = [m for name, m in model.named_modules() if name.endswith("layers") and "vision" not in name]
    return found[0]


def _half(block, at):
    """The module whose output is `at`: with norms after a block's halves (Gemma), theirs."""
    gemma = hasattr(block, "post_feedforward_layernorm")
    if at == "mlp_neurons":
        return block.mlp.act_fn
    if at == "z":  # what goes into it
        return block.self_attn.o_proj
    if at in ("attn_out", "resid_mid"):
        return block.post_attention_layernorm if gemma else block.self_attn
    return block.post_feedforward_layernorm if gemma else block.mlp


@contextlib.contextmanager
def _hooked(model, edits):
    """`edits`: (hook point, function (layer, x) -> x or None), placed on modules of the transformers model."""
    handles = []
    for at, edit in edits:
        for i, block in enumerate(torch_layers(model)):
            module = block if at in ("resid_pre", "resid_post") else _half(block, at)
            stream = {}

            def enter(_, args, stream=stream):
                stream["x"] = args[0]

            def middle(_, args, out, i=i, edit=edit, stream=stream):
                """The sum is made in no module of its own: what the first half adds is changed by as much."""
                first = out[0] if isinstance(out, tuple) else out
                changed = edit(i, stream["x"] + first) - stream["x"]
                return (changed, *out[1:]) if isinstance(out, tuple) else changed

            def before(_, args, i=i, edit=edit):
                return (edit(i, args[0]), *args[1:])

            def after(_, args, out, i=i, edit=edit):
                first = out[0] if isinstance(out, tuple) else out
                changed = edit(i, first)
                return (changed, *out[1:]) if isinstance(out, tuple) else changed

            if at == "resid_mid":
                handles.append(block.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(middle))
            elif at in ("resid_pre", "z"):
                handles.append(module.register_forward_pre_hook(before))
            else:
                handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def torch_run(model, tokens, mask=None, edits=()):
    """(logits [B, T, V], resid_post [L, B, T, D], final hidden [B, T, D]) as torch tensors, with edits applied."""
    tokens = torch.as_tensor(np.array(tokens), dtype=torch.long)
    mask = torch.ones_like(tokens) if mask is None else torch.as_tensor(np.array(mask), dtype=torch.long)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    stream = []

    def record(layer, x):
        stream.append(x)
        return x

    with _hooked(model, [*edits, ("resid_post", record)]):
        out = model(tokens, attention_mask=mask, position_ids=position, output_hidden_states=True, use_cache=False)
    return out.logits, torch.stack(stream), out.hidden_states


def from_transformers(folder, tokens, mask):
    """Logits [B, T, V] of a folder, read and run by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        return torch_run(model, tokens, mask)[0].numpy()


def tiny_spec(kind="qwen3", **changes):
    """A decoder of three layers; "gemma3" has windows, two rotary bases, post norms and scaled embeddings."""
    base = dict(family=kind, vocab=VOCAB, width=24, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=40, qk_norm=True)
    dim = changes.get("head_dim", base["head_dim"])
    if kind == "qwen3":
        base |= dict(ropes=(Rope(1e4, dim),), rope_of=(0, 0, 0), windows=(0, 0, 0))
    else:
        base |= dict(
            ropes=(Rope(1e5, dim, "linear", 4.0), Rope(1e3, dim)), rope_of=(1, 0, 1), windows=(4, 0, 3),
            norm_offset=1.0, act="gelu_tanh", post_norms=True, embed_scale=24**0.5, attn_scale=0.3,
        )  # fmt: skip
    return Spec(**base | changes)


def tiny_model(kind="qwen3", seed=0, lora=None, **changes):
    """(graphdef, params) of random numbers: norms away from one, LoRA factors, where there are any, from zero."""
    spec = tiny_spec(kind, **changes)
    graphdef, shapes = decoder.structure(spec, lora)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        if name == "scale":
            return jnp.asarray(1.0 - spec.norm_offset + 0.3 * noise, leaf.dtype)
        std = (
            0.5
            if name in ("embed", "unembed", "bias", "sinks")
            else 0.2
            if name == "lora_b"
            else leaf.shape[-2] ** -0.5
        )
        return jnp.asarray(std * noise, leaf.dtype)

    return graphdef, jax.tree_util.tree_map_with_path(fill, shapes)


STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))  # N, E, S, W; y grows southward


def play_again(grid, x, y, actions, winds, params):
    """The rules in plain Python, from the moves and the winds: one dict a turn."""
    grid, x, y, size, out = np.asarray(grid).tolist(), int(x), int(y), len(grid), []
    for action, wind in zip(actions, winds):
        moves = bool(params.wind_mode == "push" or wind < 0)
        pushes = [action] * moves + [wind] * bool(wind >= 0)
        golds = molds = 0
        landed = (x, y)
        for i, (dx, dy) in enumerate(STEPS[d] for d in pushes):
            grid[y][x] = MOLD
            if 0 <= x + dx < size and 0 <= y + dy < size:
                x, y = x + dx, y + dy
            golds, molds = golds + (grid[y][x] == GOLD), molds + (grid[y][x] == MOLD)
            if grid[y][x] == GOLD:
                grid[y][x] = PATH
            if i == 0 and moves:
                landed = (x, y)
        reward = params.turn_reward + params.gold_reward * golds + params.mold_reward * molds
        around = [(x + dx, y + dy) for dx, dy in STEPS]
        neighbours = [grid[v][u] if 0 <= u < size and 0 <= v < size else MOLD for u, v in around]
        out.append(dict(x=x, y=y, gold=golds, mold=molds, reward=reward, neighbours=neighbours, landed=landed))
    return out, grid
