"""A released model, where `bash launchers/model.sh smollm2` has been run: text, play, training, reading, steering."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import run, torch_run

import welfare_jax as wj
from welfare_jax.envs import maze, walks
from welfare_jax.interp import extract
from welfare_jax.models import decoder, gguf, hf
from welfare_jax.rl import rollout
from welfare_jax.text import pieces as text
from welfare_jax.train import state, step
from welfare_jax.train.settings import Lora, MazeTraining

FOLDER = pathlib.Path(__file__).parents[2] / "models" / "smollm2"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs models/smollm2: bash launchers/model.sh smollm2"),
]
TEXT = (
    "The aurora borealis, or northern lights, occurs when charged particles from the Sun meet the upper atmosphere. "
    "In 1741 Anders Celsius saw that a compass needle moves with it; naïve accounts spoke of 🔥 in the sky."
)
QUESTIONS = (
    "What is the capital of France?", "Write one sentence about the sea.", "How is it going?",
    "Count from 1 to 5.", "Translate 'good morning' into Spanish.",
)  # fmt: skip
MAZE = maze.Params(size=20, turns=3)


@pytest.fixture(scope="module")
def lm():
    return wj.load(FOLDER)


@pytest.fixture(scope="module")
def theirs():
    """The same weights in transformers, through its own reader where they are a GGUF file."""
    from transformers import AutoModelForCausalLM

    file = gguf.find(FOLDER)
    source = {"gguf_file": file.name} if file else {}
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager", **source)
    return model.eval()


@pytest.fixture(scope="module")
def pieces(lm):
    return text.build(lm.tokenizer, size=MAZE.size)


def test_logits_and_residual_stream(lm, theirs):
    tokens = np.array([lm.tokenizer.encode(TEXT)])
    read = np.arange(tokens.shape[1], dtype=np.int32)[None]
    out = run(lm.graphdef, lm.params, tokens, read=read)
    with torch.no_grad():
        logits, residual, _ = torch_run(theirs, tokens)
    assert np.abs(np.asarray(out.logits) - logits.numpy()).max() < 1e-4 * logits.std().item()
    for layer, want in enumerate(residual.numpy()):
        # A few numbers at the first token are hundreds of times as large as the spread: theirs is a share of them.
        np.testing.assert_allclose(out.residual[layer], want, rtol=1e-5, atol=1e-4 * want.std(), err_msg=str(layer))
    # A model that reads English: far from the -10.8 of one that knows nothing.
    chosen = jax.nn.log_softmax(out.logits[0, :-1])[np.arange(tokens.shape[1] - 1), tokens[0, 1:]]
    assert -5.0 < float(chosen.mean()) < -1.0


def test_greedy_answers(lm, theirs):
    tokens, mask = wj.encode(lm.tokenizer, QUESTIONS)
    stop = wj.stop_ids(lm.tokenizer)
    new, kept = wj.generate(
        lm.graphdef, lm.params, tokens, mask, jax.random.key(0), max_new_tokens=24, temperature=0.0, stop=stop
    )
    with torch.no_grad():
        want = theirs.generate(
            torch.as_tensor(tokens, dtype=torch.long), attention_mask=torch.as_tensor(mask, dtype=torch.long),
            max_new_tokens=24, do_sample=False, eos_token_id=list(stop), pad_token_id=stop[0],
        ).numpy()[:, tokens.shape[1] :]  # fmt: skip
    for row, (ours, on) in enumerate(zip(np.asarray(new), np.asarray(kept))):
        assert ours[on].tolist() == want[row][: on.sum()].tolist(), QUESTIONS[row]
    assert "Paris" in lm.tokenizer.decode(np.asarray(new)[0])


def test_tokens_are_those_of_transformers(lm):
    """Its own reader of the file cuts numbers by another rule; with the right one, every id is the same."""
    if gguf.find(FOLDER) is None:
        pytest.skip("the folder holds the model's own tokenizer")
    from test_gguf_tokenizer import texts
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(FOLDER, gguf_file=gguf.find(FOLDER).name)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for some in texts():
        assert lm.tokenizer.encode(some) == other.encode(some, add_special_tokens=False), some
    digits = lm.tokenizer.encode("1234567")
    assert [lm.tokenizer.decode(i) for i in digits] == list("1234567")


def test_a_game_is_the_templates_rendering(lm, pieces):
    """The default system prompt before the first turn included."""
    keys = jax.random.split(jax.random.key(1), 2)
    states = rollout.group_states(jax.random.key(0), 2, 1, MAZE)
    table, size, widths = pieces.table, pieces.size, pieces.widths()
    played = rollout.play(rollout.uniform(), None, table, size, widths, MAZE, states, keys, 1.0)
    played = jax.device_get(played)
    for row in range(2):
        talk = []
        for t in range(MAZE.turns):
            if t:
                talk.append({"role": "assistant", "content": pieces.wording.letters[played.actions[row, t - 1]]})
            wind = int(played.wind[row, t - 1]) if t else -1
            seen = played.x[row, t], played.y[row, t], played.neighbours[row, t], played.order[row, t], wind
            talk.append({"role": "user", "content": pieces.wording.observation(*seen)})
        want = lm.tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
        assert played.tokens[row][played.mask[row]].tolist() == want
        assert lm.tokenizer.decode(want).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


def test_one_step_of_training(lm, pieces):
    cfg = MazeTraining(group_size=4, micro_batch=4, lora=Lora(4, 8.0))
    graphdef, trainable, frozen = state.adapted(lm, cfg.lora, cfg.trainable, 0)
    collect = jax.jit(step.make_collect(graphdef, pieces, MAZE, groups=1, group_size=4))
    played, _ = collect(trainable, frozen, jax.random.key(0), 0, 1.0)
    assert np.isfinite(played.rewards).all() and np.ptp(played.rewards.sum(-1)) > 0
    optimizer = state.optimizer(cfg)
    before = state.State(jnp.int32(0), trainable, optimizer.init(trainable))
    update = jax.jit(step.make_update(graphdef, pieces, optimizer, cfg, MAZE))
    after, metrics = update(before, frozen, None, played, 1.0)
    metrics = step.values(metrics)
    assert all(v is None or np.isfinite(v) for v in metrics.values()), metrics
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-4) and metrics["grad_norm"] > 0
    moved = [k for k, v in after.trainable.items() if not np.array_equal(v, trainable[k])]
    assert moved and all("lora_" in k for k in moved)


def test_reading_directions(lm, pieces):
    samples = extract.of_walks(pieces, walks.generate(MAZE, 2))
    moments = extract.moments(decoder.bind(lm.graphdef, lm.params), extract.buckets(samples, 8, 1))
    sums, counts = np.asarray(moments.sums), np.asarray(moments.counts)
    assert sums.shape[0] == lm.spec.layers and np.isfinite(sums).all() and (counts > 0).all()
    means = sums / counts.reshape(-1, sums.shape[1])[:1, :, None]
    assert (np.linalg.norm(means[:, 1] - means[:, 0], axis=-1) > 0).all()


def test_steering(lm):
    tokens, mask = wj.encode(lm.tokenizer, QUESTIONS[:2])
    vector = np.random.default_rng(0).normal(size=lm.spec.width).astype("f4")
    plain = run(lm.graphdef, lm.params, tokens, mask=mask).logits
    none, some = (
        run(lm.graphdef, lm.params, tokens, mask=mask, interventions=wj.add(vector, 15, scale)).logits
        for scale in (0.0, 3.0)
    )
    assert np.array_equal(np.asarray(none)[mask], np.asarray(plain)[mask])
    assert np.abs(np.asarray(some) - np.asarray(plain))[mask].max() > 0.5


def test_the_path_is_a_folder_or_its_file(lm):
    file = gguf.find(FOLDER)
    assert lm.path == str(file or FOLDER) and hf.resolve(str(FOLDER)) == (file or FOLDER)
