"""Text to pretrain on: a mixture of sources with weights, packed into rows by grain, from any step on.

A source is random access to documents. Its name in the settings says which: `world/KIND` (`text.tiny_world`),
`arithmetic/FORMAT` (`text.arithmetic`), `hub/OWNER/NAME` (a hub dataset), or the path of a text file, plain or .gz.
"""

import dataclasses
import functools
import itertools
import pathlib
import zlib

import grain
import numpy as np

from welfare_jax import textfiles
from welfare_jax.errors import InputError
from welfare_jax.models import decoder, hf
from welfare_jax.models.spec import Spec
from welfare_jax.settings import check, setting, typed
from welfare_jax.text import arithmetic, tiny_tokenizer, tiny_world
from welfare_jax.text.wording import Wording

ENDLESS = 1 << 40  # documents of a generated source
FEW = 32  # documents of a source that are held out


class Generated:
    """Documents that follow from the seed, the source's name and their number. `make(rng, number) -> Document`."""

    def __init__(self, make, key):
        self.make, self.key = make, key

    def __len__(self):
        return ENDLESS

    def __getitem__(self, number):
        return self.make(np.random.default_rng((*self.key, number)), number)


class Numbered:
    """The rows of a list or a dataset, each with its number from 1."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return number + 1, self.rows[number]


class Documents:
    """Numbered rows of a file or a dataset as documents: `messages`, or text under `column`; held-out rows apart."""

    def __init__(self, rows, name: str, column: str, held_out: bool):
        few = min(FEW, max(len(rows) // 10, 1))
        if len(rows) < 2:
            raise InputError(f"source {name}: holds {len(rows)} documents, need at least 2")
        self.rows, self.name, self.column = rows, name, column
        self.first, self.count = (len(rows) - few, few) if held_out else (0, len(rows) - few)

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        at, row = self.rows[self.first + number]
        text, messages = (row.get(k) if isinstance(row, dict) else None for k in (self.column, "messages"))
        if isinstance(messages, list) and all(
            isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
        ):
            return tiny_world.Document(self.name, tuple(messages))
        if not isinstance(text, str):
            has = f"has {', '.join(map(str, row))}" if isinstance(row, dict) else f"is a {type(row).__name__}"
            raise InputError(f"source {self.name}, line {at}: needs a text under {self.column!r}; it {has}")
        return tiny_world.Document(self.name, (), text)


def source(name: str, seed: int, level: arithmetic.Level, column: str = "text", held_out: bool = False):
    """Random access to the documents of a source, `len` and `[number]`. Raises `InputError` on one there is not."""
    family, _, kind = name.partition("/")
    key = (seed, zlib.crc32(name.encode()), int(held_out))
    if family == "world" and kind in tiny_world.KINDS:
        return Generated(lambda rng, _: tiny_world.draw(rng, Wording(), kind), key)
    if family == "arithmetic" and kind in arithmetic.FORMATS:
        return Generated(functools.partial(_worked, kind, level, held_out), key)
    if family == "hub" and kind:
        return Documents(Numbered(_hub(kind)), name, column, held_out)
    layout = textfiles.kind(name)
    if layout not in (".jsonl", ".txt", ".json", ".csv", ".tsv"):
        own = [f"world/{k}" for k in tiny_world.KINDS] + [f"arithmetic/{k}" for k in arithmetic.FORMATS]
        raise InputError(
            f"source {name!r}: none of {', '.join(own)}, hub/OWNER/NAME or a .jsonl, .json, .csv, .tsv or .txt file"
        )
    if layout == ".jsonl":
        rows = textfiles.Lines(name)
    elif layout == ".txt":  # documents are parted by empty lines
        texts = [text.strip() for text in textfiles.text(name).split("\n\n") if text.strip()]
        rows = Numbered([{column: text} for text in texts])
    else:
        rows = textfiles.records(name)
    return Documents(rows, name, column, held_out)


def _worked(style, level, held_out, rng, number):
    p = arithmetic.problem(int(rng.integers(1 << 31)), number, level, held_out)
    text = arithmetic.document(p, arithmetic.solution(p, style, rng))
    return tiny_world.Document(f"arithmetic/{style}", (), text, {"problem": p})


def _hub(name: str):
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"source hub/{name}: reading it needs `pip install datasets`; or name a .jsonl file"
        ) from None
    try:
        return datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub raises a dozen kinds: no network, gated, unknown name
        raise InputError(
            f"source hub/{name}: not in the local cache and not downloadable ({type(error).__name__})"
        ) from None


def encode(tokenizer, document, told_weight: float = 1.0, spec: Spec | None = None) -> dict[str, np.ndarray]:
    """{"tokens": int32 [T], "weights": float32 [T]}: what users say in messages weighs `told_weight`, the rest one.

    spec: of the model that learns, which must have a row for every token.
    """
    found = _encode(tokenizer, document, told_weight)
    if spec:
        decoder.check_ids(spec, found["tokens"], f"source {document.kind}")
    return found


def _padding(tokenizer, spec: Spec | None) -> int:
    """The id between documents, which weighs nothing; 0 where the model has no row for the tokenizer's own."""
    own = tokenizer.pad_token_id or 0
    return 0 if spec and own >= spec.vocab else own


def _encode(tokenizer, document, told_weight: float) -> dict[str, np.ndarray]:
    if not document.messages:
        body = tokenizer.backend_tokenizer.encode(document.text, add_special_tokens=False).ids
        ids = np.array([i for i in (tokenizer.bos_token_id, *body, tokenizer.eos_token_id) if i is not None], np.int32)
        return {"tokens": ids, "weights": np.ones(len(ids), np.float32)}
    user, assistant, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|user|>", "<|assistant|>", "<|end|>"))
    if None in (user, assistant, end) or tokenizer.unk_token_id in (user, assistant, end):
        raise InputError(f"source {document.kind}: messages need a tokenizer made here (tokenizer.path='')")
    ids = tokenizer.backend_tokenizer.encode(tiny_world.render(document), add_special_tokens=False).ids
    ids = np.array(ids, np.int32)
    opened, closed = np.cumsum(ids == assistant), np.cumsum(ids == end)
    answer = (opened > closed - (ids == end)) & (ids != assistant)
    return {"tokens": ids, "weights": np.where(answer, 1.0, told_weight).astype(np.float32)}


class _Cut(grain.experimental.FlatMapTransform):
    """A document that is longer than a row becomes several."""

    max_fan_out = 1 << 20

    def __init__(self, length: int):
        self.length = length

    def flat_map(self, element):
        n = len(element["tokens"])
        return [{k: v[a : a + self.length] for k, v in element.items()} for a in range(0, n, self.length)]


def pack(parts, weights, tokenizer, *, seed: int, rows: int, length: int, told_weight: float = 1.0, spec=None):
    """Endless batches {"tokens", "weights"} [rows, length] of documents, drawn by `weights` from sources `parts`.

    Documents are placed first-fit, so a row ends in padding of weight zero; they see the ones before them in their
    row, as is usual. The iterator has `get_state` and `set_state`.
    """
    mixed = []
    for i, part in enumerate(parts):
        one = grain.MapDataset.source(part)
        endless = len(part) == ENDLESS
        mixed.append(one if endless else one.seed(seed + i).shuffle().repeat())
    rule = grain.MapDataset.mix(mixed, weights).map(lambda d: encode(tokenizer, d, told_weight, spec))
    rule = rule.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    rule = grain.experimental.FlatMapIterDataset(rule, _Cut(length))
    rule = grain.experimental.FirstFitPackIterDataset(
        rule, length_struct={"tokens": length, "weights": length}, num_packing_bins=rows, shuffle_bins=False,
        padding_struct={"tokens": _padding(tokenizer, spec), "weights": 0.0},
    )  # fmt: skip
    return iter(rule.map(lambda row: {k: row[k] for k in ("tokens", "weights")}).batch(rows))


def single(documents, tokenizer, length: int, told_weight: float = 1.0, spec: Spec | None = None):
    """(tokens, weights) [len(documents), length], one document a row, cut or padded."""
    tokens = np.full((len(documents), length), _padding(tokenizer, spec), np.int32)
    weights = np.zeros(tokens.shape, np.float32)
    for i, document in enumerate(documents):
        found = encode(tokenizer, document, told_weight, spec)
        n = min(length, len(found["tokens"]))
        tokens[i, :n], weights[i, :n] = found["tokens"][:n], found["weights"][:n]
    return tokens, weights


@dataclasses.dataclass(frozen=True)
class Source:
    data: str  # its name, see the top of this file
    weight: float  # by number of documents
    column: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    path: str
    kind: str = setting(choices=("words", "bpe"))
    vocab_size: int
    documents: int

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What of a pretraining's settings says what is read."""

    seed: int
    steps: int
    rows: int
    length: int
    told_weight: float
    level: arithmetic.Level
    tokenizer: TokenizerSettings
    sources: dict[str, Source]
    phases: list[dict]

    def __post_init__(self):
        _ = self.spans

    @classmethod
    def of(cls, config) -> "Mixture":
        sources = {name: typed(Source, config, f"sources.{name}") for name in config["sources"]}
        return typed(cls, config, sources=sources, phases=[dict(phase) for phase in config["phases"]])

    @property
    def world(self) -> bool:
        """Whether documents of the maze's world are among them."""
        return any(s.data.startswith("world/") for s in self.sources.values())

    @property
    def spans(self) -> list[tuple[int, dict]]:
        """(step that ends it, weight of every source) of every phase; without any, one with the sources' weights."""
        own = [(self.steps, {name: float(s.weight) for name, s in self.sources.items()})]
        out = [(p["until"], {k: float(v) for k, v in p.items() if k != "until"}) for p in self.phases] or own
        for i, (until, weights) in enumerate(out):
            name = f"phases[{i}]" if self.phases else "sources"
            if unknown := set(weights) - set(self.sources):
                raise InputError(f"{name}: {sorted(unknown)[0]!r} is not in sources ({', '.join(self.sources)})")
            if min(weights.values(), default=0.0) < 0 or not sum(weights.values()) > 0:
                raise InputError(f"{name}: weights must be zero or more, and not all zero")
            if until <= (out[i - 1][0] if i else 0):
                raise InputError(f"{name}: until={until} must come after the phase before it")
        if out[-1][0] < self.steps:
            raise InputError(f"phases: the last one ends at {out[-1][0]}, before steps={self.steps}")
        return out


class Corpus:
    """The rows of a run: its sources, and one packed mixture after another as the phases of the settings say."""

    def __init__(self, config: Mixture, tokenizer, spec: Spec | None = None):
        self.config, self.tokenizer, self.spec, self.at, self.rows = config, tokenizer, spec, None, None
        self.phases = config.spans
        self.held = open_sources(config, held_out=True)

    def _enter(self, phase: int):
        cfg, weights = self.config, {k: w for k, w in self.phases[phase][1].items() if w > 0}
        parts = open_sources(cfg, seed=cfg.seed + phase)
        self.at = phase
        self.rows = pack(
            [parts[k] for k in weights], list(weights.values()), self.tokenizer, seed=cfg.seed + phase, rows=cfg.rows,
            length=cfg.length, told_weight=cfg.told_weight, spec=self.spec,
        )  # fmt: skip

    def batch(self, step: int):
        phase = next(i for i, (until, _) in enumerate(self.phases) if step < until)
        if phase != self.at:
            self._enter(phase)
        return next(self.rows)

    def get_state(self) -> dict:
        return {"phase": self.at, "rows": self.rows.get_state()}

    def set_state(self, state: dict):
        self._enter(state["phase"])
        self.rows.set_state(state["rows"])

    def held_out(self, name: str):
        """(tokens, weights) of documents that are never trained on; what users say does not count."""
        part = self.held[name]
        few = [part[i] for i in range(min(FEW, len(part)))]
        return single(few, self.tokenizer, self.config.length, 0.0, self.spec)


def open_sources(config: Mixture, seed: int | None = None, held_out: bool = False) -> dict:
    seed = config.seed if seed is None else seed
    return {n: source(s.data, seed, config.level, s.column, held_out) for n, s in config.sources.items()}


def make_tokenizer(config: Mixture, folder):
    """The tokenizer of a run, from `tokenizer.path` or made from documents of the mixture and kept in `folder`."""
    cfg = config.tokenizer
    if cfg.path:
        return hf.load_tokenizer(pathlib.Path(cfg.path).expanduser())
    if not (folder / "tokenizer.json").is_file():
        texts = sample(config, cfg.documents)
        try:
            if cfg.kind == "words":
                phrases = tiny_tokenizer.set_phrases(Wording()) if config.world else ()
                made = tiny_tokenizer.train(texts, cfg.vocab_size, phrases)
            else:
                made = tiny_tokenizer.train_bpe(texts, cfg.vocab_size)
        except ValueError as error:
            raise InputError(f"tokenizer.{error}") from None
        tiny_tokenizer.save(made, folder)
    return hf.load_tokenizer(folder)


def sample(config: Mixture, count: int):
    """Texts of about `count` documents, every source in proportion to its weights over all phases."""
    parts, spans, total = open_sources(config), config.spans, {}
    for begin, (until, weights) in zip([0, *(until for until, _ in spans)], spans):
        for name, w in weights.items():
            total[name] = total.get(name, 0.0) + (until - begin) * w / sum(weights.values())
    whole = sum(total.values())
    each = {k: min(len(parts[k]), max(1, round(count * w / whole))) for k, w in total.items() if w > 0}
    documents = itertools.chain.from_iterable((parts[k][i] for i in range(n)) for k, n in each.items())
    return (tiny_world.render(d) for d in documents)
