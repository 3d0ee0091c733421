"""Folders of weights that several files read from, and write over."""

import pytest
from helpers import hf_model, save


@pytest.fixture(scope="session")
def good(tmp_path_factory, tiny_tokenizer_dir):
    """A model in one file."""
    return save(hf_model("qwen3"), tmp_path_factory.mktemp("good"), tiny_tokenizer_dir)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, tiny_tokenizer_dir):
    """The same in several files, with an index."""
    return save(hf_model("qwen3"), tmp_path_factory.mktemp("sharded"), tiny_tokenizer_dir, max_shard_size="20KB")
