"""Settings that must precede the first use of jax, and the fixtures that several rooms share."""

import gc
import itertools
import os
import pathlib
import signal

# What a script starts in the background ignores Ctrl-C and hands that on: tests of Ctrl-C need it as in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Eight devices for the sharding tests. The rest is for compilation, which would be most of the time of models as small
# as these: no optimisation by LLVM, the older emitters of fused loops (half the time of the newer), one LLVM module.
FLAGS = (
    "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1",
)  # fmt: skip
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([given, *(flag for flag in FLAGS if flag.split("=")[0] not in given)])

import jax  # noqa: E402
import pytest  # noqa: E402
from published import SHARED  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")  # an accelerator would round to less than float32

MAPS = pathlib.Path("/proc/self/maps")  # of memory; the kernel allows a process 65,530 of them


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs are dropped when there are many: each takes several memory maps, and without a free one the
    next compilation is a segmentation fault."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared_tokenizer():
    """`shared_tokenizer(name)`: a real tokenizer, loaded once; skips where its folder is absent."""
    loaded = {}

    def get(name):
        folder = SHARED / "tokenizers" / name
        if not folder.is_dir():
            pytest.skip(f"needs {folder}")
        if name not in loaded:
            from transformers import AutoTokenizer

            loaded[name] = AutoTokenizer.from_pretrained(folder)
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory):
    """A folder with a tokenizer of about 600 tokens that knows the maze's words."""
    from welfare_jax.text import tiny_tokenizer, tiny_world
    from welfare_jax.text.wording import Wording

    documents = tiny_world.documents(0, tiny_world.Mixture(1, 1, 1, 1), Wording())
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save(tiny_tokenizer.train(map(tiny_world.render, itertools.islice(documents, 400))), folder)
    return folder


def _random(layers, tokenizer, tokenizer_dir, folder):
    from helpers import hf_model, save

    return save(hf_model("qwen3", vocab_size=len(tokenizer), num_hidden_layers=layers), folder, tokenizer_dir)


@pytest.fixture(scope="session")
def one_layer_dir(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    """The folder of a model of one layer with random weights."""
    return _random(1, tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory.mktemp("one-layer"))


@pytest.fixture(scope="session")
def two_layer_dir(tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory):
    """As `one_layer_dir`, of two layers."""
    return _random(2, tiny_tokenizer, tiny_tokenizer_dir, tmp_path_factory.mktemp("two-layers"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
