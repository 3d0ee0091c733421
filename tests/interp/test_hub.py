"""What goes to the hub, against an API that keeps what it is given: nothing leaves this machine."""

import pathlib
import re

import huggingface_hub
import jax
import numpy as np
import pytest
import yaml

import welfare_jax as wj
from welfare_jax.errors import InputError
from welfare_jax.models import hf, lora
from welfare_jax.models.layers import Lora

GOOD, BAD = ["We won.", "I am glad", "I found it"], ["We lost.", "I am sad", "I lost it"]


@pytest.fixture(scope="module")
def lm():
    return wj.load("tiny")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """{repository: its folder here}; `made` has what `create_repo` was asked for."""

    class Api:
        repos, made, token = {}, [], None

        def __init__(self, token=None):
            Api.token = token

        def create_repo(self, repo, *, private, exist_ok):
            assert exist_ok
            self.made.append((repo, private))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            self.repos[repo_id] = tmp_path / repo_id.replace("/", "_")
            self.repos[repo_id].mkdir()
            for path in pathlib.Path(folder_path).iterdir():
                (self.repos[repo_id] / path.name).write_bytes(path.read_bytes())

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: Api.repos[repo] / file)
    return Api


def card(folder):
    """(metadata, text) of a repository's card, its metadata as the hub reads it."""
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_direction_and_the_code_on_its_card(lm, hub, monkeypatch, capsys):
    found = wj.read_direction(lm, GOOD, BAD, folds=2)
    address = wj.push_to_hub(found, "me/well", base="owner/tiny", about="How well it goes.", token="secret")
    assert address == "https://huggingface.co/me/well" and hub.made == [("me/well", True)] and hub.token == "secret"
    assert {p.name for p in hub.repos["me/well"].iterdir()} == {"README.md", "direction.safetensors"}
    head, body = card(hub.repos["me/well"])
    assert head == {"base_model": "owner/tiny", "tags": ["welfare_jax", "steering-vector"]}
    assert "How well it goes." in body and f"| steering layer | {found.layer} |" in body and found.data in body
    again = wj.Direction.load(hub.repos["me/well"] / "direction.safetensors")
    np.testing.assert_array_equal(again.vectors, found.vectors)
    np.testing.assert_array_equal(again.auroc, found.auroc)
    assert (again.layer, again.hook, again.model, again.data) == (found.layer, found.hook, "owner/tiny", found.data)
    (code,) = re.findall(r"```python\n(.*?)```", body, re.S)
    monkeypatch.setattr(wj, "load", lambda name: lm, raising=False)
    exec(code, {})
    assert capsys.readouterr().out.strip()


def test_adapters_are_a_peft_folder(lm, hub):
    graphdef, params = lora.attach(lm.graphdef, lm.params, Lora(2, 4.0), jax.random.key(0))
    adapted = hf.LM(graphdef, params, lm.spec, lm.tokenizer, lm.path)
    wj.push_to_hub(adapted, "me/adapters", base="owner/tiny", private=False)
    assert hub.made[-1] == ("me/adapters", False)
    head, body = card(hub.repos["me/adapters"])
    assert head == {"base_model": "owner/tiny", "library_name": "peft", "tags": ["welfare_jax", "lora"]}
    again = wj.load_peft(lm, hub.repos["me/adapters"])
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert '"base_model_name_or_path": "owner/tiny"' in (hub.repos["me/adapters"] / "adapter_config.json").read_text()


def test_a_local_path_is_no_model_of_the_hub(lm, hub):
    wj.push_to_hub(wj.read_direction(lm, GOOD, BAD, folds=2), "me/local")
    assert "base_model" not in card(hub.repos["me/local"])[0]


@pytest.mark.parametrize("what", ["whole model", "vector"])
def test_nothing_else_is_uploaded(lm, hub, what):
    with pytest.raises(InputError, match="neither a direction nor a model with adapters"):
        wj.push_to_hub(lm if what == "whole model" else np.ones(3), "me/x")
    with pytest.raises(InputError, match="needs OWNER/NAME"):
        wj.push_to_hub(lm, "x")
    assert not hub.repos.get("me/x")


def test_what_the_hub_refuses_is_one_line(lm, hub, monkeypatch):
    def refuse(*args, **kw):
        raise ValueError("401 Client Error:\n not yours")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(InputError, match="401 Client Error: not yours") as error:
        wj.push_to_hub(wj.read_direction(lm, GOOD, BAD, folds=2), "me/well")
    assert "\n" not in str(error.value) and "hf auth login" in str(error.value)


def test_other_vector_files_are_no_directions(tmp_path):
    from welfare_jax.interp import vectors

    path = vectors.save(
        tmp_path / "v.safetensors", {"mold/rest": np.ones((2, 3))}, model="m", hook="z", data="", layers={"mold": 1}
    )
    with pytest.raises(InputError, match="not a direction's file"):
        wj.Direction.load(path)
