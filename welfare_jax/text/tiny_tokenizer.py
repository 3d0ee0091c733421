"""Tokenizers made from text: whole words, numbers and tiles as single tokens and anything else as bytes; or BPE.

The first is a Hugging Face byte-level BPE without merges: a piece that is in the vocabulary is one token
(`ignore_merges`), every other piece falls apart into bytes. Learnt merges would spend a third of so small a
vocabulary on fragments of words.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from welfare_jax.text.wording import LETTERS, Wording

SPECIAL = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>")  # ids 0..4

# A tile is always a piece of its own (with the space before it); a newline joins punctuation, never a tile.
_EMOJI = "\u2600-\u27bf\U0001f300-\U0001faff"
PIECES = rf" ?[{_EMOJI}]| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}{_EMOJI}]+\n?|\n|\s+"

CHAT_TEMPLATE = (
    "{{- bos_token }}{%- set ns = namespace(system='') %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{%- set ns.system = ns.system + message['content'] + '\\n' %}"
    "{%- elif message['role'] == 'user' %}"
    "{{- '<|user|>' + ns.system + message['content'] }}{%- set ns.system = '' %}"
    "{%- elif message['role'] == 'assistant' %}{{- '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{%- else %}{{- raise_exception('unknown role ' + message['role']) }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def set_phrases(wording: Wording) -> tuple[str, ...]:
    """What every turn says in the same words; as single tokens they shorten an episode by a third."""
    lines = {wording.neighbour_line(d, 0).split(wording.tiles[0])[0].rstrip() for d in range(4)}
    wind = {wording.wind.split("{")[0].rstrip()}
    return tuple(sorted(lines | wind | {wording.closing, wording.place.split("{x}")[0]} - {""}))


def train(texts: Iterable[str], vocab_size: int = 768, phrases: Iterable[str] = ()) -> Tokenizer:
    """A tokenizer of at most `vocab_size` tokens: special tokens, bytes, numbers 0..99, letters, frequent pieces.

    Each of `phrases` is one token wherever it stands.
    """
    pattern = "|".join([*(re.escape(p) for p in sorted(phrases, key=len, reverse=True)), PIECES])
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = re.compile("|".join(map(re.escape, SPECIAL)))
    counts = Counter(
        piece for text in texts for part in special.split(text) for piece, _ in split.pre_tokenize_str(part)
    )
    fixed = [space + piece for space in ("", "\u0120") for piece in (*map(str, range(100)), *LETTERS)]  # Ġ: a space
    vocab = list(dict.fromkeys([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *fixed]))
    if vocab_size < len(vocab):
        raise ValueError(f"vocab_size={vocab_size}: special tokens, bytes and numbers alone need {len(vocab)}")
    known = set(vocab)
    ranked = sorted((piece for piece in counts if piece not in known), key=lambda piece: (-counts[piece], piece))
    vocab += ranked[: vocab_size - len(vocab)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocab)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with learnt merges and the same special tokens, for text of any kind; digits stand alone."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(SPECIAL) + len(alphabet):
        raise ValueError(
            f"vocab_size={vocab_size}: special tokens and bytes alone need {len(SPECIAL) + len(alphabet)}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write a folder that `transformers.AutoTokenizer.from_pretrained(folder)` loads."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
