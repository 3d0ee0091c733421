"""The tokenizer of a GGUF file, rebuilt with `tokenizers` from its vocabulary and merges.

`transformers` has such a reader too. It needs torch, and where it does not know a file's rule for cutting texts it
takes GPT-2's, so that numbers get other tokens from it than from SmolLM's own tokenizer.
"""

import numpy as np

from welfare_jax.errors import InputError
from welfare_jax.models import stops

TOKENS = "tokenizer.ggml.tokens"
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # token types: always matched whole, the first of them as special tokens
# How texts are cut before merging, by the names of the tokenizer.json files that these rules come from.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD = r"[^\r\n\p{L}\p{N}]?" + _UPPER
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"{_WORD}*{_LOWER}+|{_WORD}+{_LOWER}*|\p{{N}}{_REST}"
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT4O = rf"{_WORD}*{_LOWER}+{_SUFFIX}|{_WORD}+{_LOWER}*{_SUFFIX}|\p{{N}}{{1,3}}{_REST}"
GPT2, DIGITS = "gpt2", "digits"  # GPT-2's rule is built into `tokenizers`; `DIGITS` takes digits one by one before it
SPLITS = {  # tokenizer.ggml.pre -> rule
    rule_name: rule
    for rule, names in {
        GPT2: "default gpt-2 phi-2 mpt olmo jais exaone4 trillion",
        DIGITS: "smollm starcoder refact command-r codeshell exaone minerva-7b",
        LLAMA3: "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe glm4 chatglm-bpe",
        QWEN2: "qwen2 deepseek-r1-qwen megrez hunyuan stablelm2",
        GPT4O: "gpt-4o llama4 kanana2",
        TEKKEN: "tekken",
    }.items()
    for rule_name in names.split()
}
# A word that is in the vocabulary is one token here, whatever the merges say; and texts begin with bos.
WHOLE = frozenset("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 tekken".split())
NFC = frozenset(("qwen2", "deepseek-r1-qwen"))  # these put accents and letters together first


def build(header):
    """A fast tokenizer with the file's special tokens and chat template. `InputError` where it cannot be rebuilt."""
    from transformers import PreTrainedTokenizerFast

    values, file = header.values, header.file
    if not isinstance(values.get(TOKENS), list) or not values[TOKENS]:
        raise InputError(f"{file}: no tokenizer in it ({TOKENS}); convert the model again, with its tokenizer")
    model = header.get("tokenizer.ggml.model", str)
    tokens, kinds = _vocabulary(header)
    if model not in ("gpt2", "llama"):
        raise InputError(
            f"{file}: tokenizer.ggml.model={model!r} cannot be rebuilt (only 'gpt2' or 'llama'); "
            f"pass the model's Hugging Face folder"
        )
    special = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        at = values.get(f"tokenizer.ggml.{key}_token_id")
        if at is not None and not (type(at) is int and 0 <= at < len(tokens)):
            raise InputError(f"{file}: tokenizer.ggml.{key}_token_id={at} is not one of its {len(tokens)} tokens")
        special[f"{name}_token"] = None if at is None else tokens[at]
    if model == "gpt2":
        tokenizer = _byte_level(header, tokens)
    else:
        tokenizer = _sentencepiece(header, tokens, kinds, special["unk_token"])
    _match_whole(tokenizer, header, tokens, kinds)
    begins = model == "llama" or header.get("tokenizer.ggml.pre", str) in WHOLE
    if header.get("tokenizer.ggml.add_bos_token", bool, begins) and special["bos_token"]:
        _begin(tokenizer, special["bos_token"])
    built = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=header.get("tokenizer.chat_template", str),
        clean_up_tokenization_spaces=False, **special,
    )  # fmt: skip
    built.listed_ends = tuple(i for i in _ends(values, file) if i < len(tokens))
    return built


def _ends(values, file) -> list[int]:
    """What ends a sequence, a turn or a message, by the file's metadata."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    return sorted({i for key in keys for i in stops.token_ids(values.get(key), f"{file}: {key}")})


def _vocabulary(header) -> tuple[list[str], np.ndarray]:
    """Tokens and their types, without the unused ones that only fill the last rows of the embedding."""
    tokens, file = header.values[TOKENS], header.file
    kinds = header.get("tokenizer.ggml.token_type", np.ndarray, np.ones(len(tokens), int))
    if len(kinds) != len(tokens):
        raise InputError(f"{file}: tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens")
    used = np.flatnonzero(kinds != UNUSED)
    count = used[-1] + 1 if len(used) else 0
    tokens, kinds = tokens[:count], kinds[:count]
    if header.get("tokenizer.ggml.model", str) == "llama":  # its user-defined pieces have spaces as such
        tokens = [t.replace(" ", "▁") if k == USER_DEFINED else t for t, k in zip(tokens, kinds)]
    if len(set(tokens)) < count:
        raise InputError(f"{file}: {TOKENS} has {count - len(set(tokens))} tokens twice; convert the model again")
    return tokens, kinds


def _byte_level(header, tokens):
    """Byte-level BPE."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    name = header.get("tokenizer.ggml.pre", str)
    if name not in SPLITS:
        raise InputError(
            f"{header.file}: tokenizer.ggml.pre={name!r} is not known (only {', '.join(SPLITS)}); "
            f"pass the model's Hugging Face folder"
        )
    merges = [tuple(m.split(" ")) for m in header.get("tokenizer.ggml.merges", list, ())]
    vocabulary = {t: i for i, t in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in WHOLE))
    except Exception as error:  # tokenizers has no error class of its own
        raise InputError(f"{header.file}: tokenizer.ggml.merges do not fit its tokens ({error})") from None
    rule = SPLITS[name]
    if rule == GPT2:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        first = pre_tokenizers.Digits(True) if rule == DIGITS else pre_tokenizers.Split(Regex(rule), "isolated")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule == DIGITS)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, bytes_])
    if name in NFC:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _sentencepiece(header, tokens, kinds, unk: str | None):
    """SentencePiece's BPE, whose merges follow from the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {t: i for i, t in enumerate(tokens)}
    bpe = models.BPE(vocabulary, _merges(vocabulary, kinds), unk_token=unk, fuse_unk=True, byte_fallback=True)
    tokenizer, prefix = Tokenizer(bpe), header.get("tokenizer.ggml.add_space_prefix", bool, True)
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(back + [decoders.Strip(" ", 1, 0)] * bool(prefix))
    return tokenizer


def _merges(vocabulary: dict[str, int], kinds) -> list[tuple[str, str]]:
    """All pairs that make a token, in the order of the tokens; before them runs of spaces and the like, longest first.

    The order of the pieces in a SentencePiece model is that of its merges. The scores would be another source, but
    converters write a fixed number in place of those of user-defined pieces.
    """
    found = []
    for token, i in vocabulary.items():
        rank = 0 if kinds[i] == USER_DEFINED else i + 1
        for cut in range(1, len(token)):
            if token[:cut] in vocabulary and token[cut:] in vocabulary:
                found.append((rank, -cut, cut - len(token), token))
    return [(token[:-cut], token[-cut:]) for _, cut, _, token in sorted(found)]


def _match_whole(tokenizer, header, tokens, kinds) -> None:
    """Control and user-defined tokens are found in a text before it is cut, and never cut themselves."""
    from tokenizers import AddedToken

    said = [header.get(key, str) for key in ("general.architecture", "tokenizer.ggml.model")]
    phi3 = said == ["phi3", "llama"]
    keep = ("<unk>", "<s>", "<|endoftext|>")  # Phi-3's other marks swallow the spaces that follow them
    added = [
        AddedToken(
            tokens[i], normalized=False, special=bool(kinds[i] == CONTROL), rstrip=phi3 and tokens[i] not in keep
        )
        for i in np.flatnonzero((kinds == CONTROL) | (kinds == USER_DEFINED))
    ]
    tokenizer.add_tokens(added)


def _begin(tokenizer, bos: str) -> None:
    """Texts begin with bos, where special tokens are asked for."""
    from tokenizers import processors

    begin = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    before = tokenizer.post_processor
    tokenizer.post_processor = processors.Sequence([before, begin]) if before else begin
