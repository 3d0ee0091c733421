"""Directions and adapters as repositories of the Hugging Face hub, each with a card that says what it is."""

import pathlib
import tempfile

from welfare_jax.errors import InputError
from welfare_jax.interp.contrast import Direction
from welfare_jax.models import decoder, hf, peft

VECTORS = "direction.safetensors"


def push_to_hub(what, repo: str, *, base: str = "", about: str = "", private: bool = True, token=None) -> str:
    """Upload a `Direction` or the adapters of a model, with a card; returns the address.

    what: what `wj.read_direction` found, or an `LM` with adapters, written as `wj.save_peft` writes them. repo:
    OWNER/NAME, which is made where it does not exist, unseen by others unless `private=False`. base: the hub name of
    the model that it belongs to, where that was loaded from a folder. about: a sentence or more for the card.
    Raises `InputError` on anything else, and where the hub refuses.
    """
    from huggingface_hub import HfApi

    if repo.count("/") != 1 or not all(repo.split("/")):
        raise InputError(f"repo={repo!r}: needs OWNER/NAME")
    with tempfile.TemporaryDirectory() as folder:
        write(what, pathlib.Path(folder), repo, base, about)
        api = HfApi(token=token)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload by welfare_jax")
        except Exception as error:  # the hub raises a dozen kinds: no network, no token, not one's own name
            why = " ".join(str(error).split())[:200]
            raise InputError(
                f"{repo}: the hub refused ({why}); log in with `hf auth login`, or pass a token"
            ) from None
    return f"https://huggingface.co/{repo}"


def write(what, folder: pathlib.Path, repo: str, base: str = "", about: str = ""):
    """The files that `push_to_hub` uploads."""
    if isinstance(what, Direction):
        base = base or what.model
        what.save(folder / VECTORS, base)
        body, kind = _direction(what, repo, base), "steering-vector"
    elif isinstance(what, hf.LM) and decoder.static(what.graphdef)[1] is not None:
        base = base or what.path
        peft.save_peft(what, folder, base)
        body, kind = _adapters(repo, base), "lora"
    else:
        raise InputError(
            f"push_to_hub: {type(what).__name__} is neither a direction nor a model with adapters; for a whole model "
            f"use wj.save_hf and `hf upload`"
        )
    tags = "".join(f"- {tag}\n" for tag in ("welfare_jax", kind))
    known = f"base_model: {base}\n" if base.count("/") == 1 and not base.startswith((".", "/", "~")) else ""
    library = "library_name: peft\n" if kind == "lora" else ""
    title = repo.split("/")[1]
    head = f"---\n{known}{library}tags:\n{tags}---\n\n# {title}\n\n" + (f"{about}\n\n" if about else "")
    (folder / "README.md").write_text(head + body)


def _direction(found: Direction, repo: str, base: str) -> str:
    layer = found.layer
    return f"""A direction in the activations of `{base}`: the difference between two lists of texts, at every layer.

| | |
| --- | --- |
| hook point | `{found.hook}` |
| layers | {len(found.vectors)} of width {found.vectors.shape[1]}, row l acts at block l, zero-based |
| steering layer | {layer} |
| held-out AUROC at it | {found.auroc[layer]:.2f} (0.5 is chance) |
| norm at it | {float((found.vectors[layer] ** 2).sum() ** 0.5):.4g} |
| data hash | `{found.data}` |

```python
import welfare_jax as wj
from huggingface_hub import hf_hub_download

lm = wj.load("{base}")
direction = wj.Direction.load(hf_hub_download("{repo}", "{VECTORS}"))
print(wj.chat(lm, "How are you?", direction.steer(1.0)))
```
"""


def _adapters(repo: str, base: str) -> str:
    return f"""LoRA adapters for `{base}`, in the format of PEFT.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{repo}")
```

In welfare_jax: `wj.load_peft(wj.load("{base}"), folder)`, with the folder that `hf download {repo}` names.
"""
