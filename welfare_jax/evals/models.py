"""The models that are evaluated: the untrained one, and the trained one as a folder or as a run's checkpoint."""

import pathlib

import jax

from welfare_jax import mesh as mesh_lib
from welfare_jax import settings, templates
from welfare_jax.errors import InputError
from welfare_jax.evals import journal
from welfare_jax.evals.cells import Model
from welfare_jax.models import decoder, hf, stops
from welfare_jax.train import checkpoints, state
from welfare_jax.train.settings import Lora

PROBE = [{"role": role, "content": f"Message {i}."} for i, role in enumerate(("user", "assistant", "user"))]


def load(path: str, trained: str, dtype: str, mesh, revision: str = "") -> dict[str, Model]:
    """{"untrained": Model, "trained": Model}; the second only where `trained` names it.

    trained: the folder of a run (its newest checkpoint), or a model as for `wj.load`; revision: of `path`, where that
    is a hub model. Of a run with adapters both models share the base weights and one compiled program; the untrained
    one's adapters add nothing.
    """
    lm = hf.load(path, dtype, mesh, revision=revision)
    if not trained:
        return {"untrained": _model(lm.graphdef, lm.params, lm.tokenizer)}
    folder = pathlib.Path(trained).expanduser()
    if (folder / "checkpoints").is_dir():
        graphdef, both = restore(folder, lm, mesh)
        return {name: _model(graphdef, params, lm.tokenizer) for name, params in both.items()}
    other = hf.load(trained, dtype, mesh)
    if (other.spec.layers, other.spec.width) != (lm.spec.layers, lm.spec.width):
        raise InputError(f"evals.trained={trained}: another shape than {path}; vectors of one do not fit the other")
    if other.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
        raise InputError(f"evals.trained={trained}: another tokenizer than {path}")
    models = {"untrained": lm, "trained": other}
    return {name: _model(m.graphdef, m.params, m.tokenizer) for name, m in models.items()}


def restore(folder: pathlib.Path, lm, mesh):
    """(graphdef, {"untrained": params, "trained": params}) of a run's newest checkpoint on its base model."""
    with checkpoints.Checkpoints(folder, 0) as saved:
        step = saved.manager.latest_step()
        if step is None:
            raise InputError(f"evals.trained={folder}: its checkpoints/ holds no checkpoint yet")
        where = f"evals.trained={folder}: its checkpoint {step}"
        written, why = saved.attempt(saved.settings, step)
        base, why = (None, why) if why else saved.attempt(_adapted, written, lm, where)
        if why:
            raise InputError(f"{where} does not say how it was made ({why})")
        graphdef, initial, frozen = base
        place = lambda k, a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=mesh_lib.sharding(mesh, k, a.shape))
        wanted = {"trainable": {k: place(k, a) for k, a in initial.items()}}
        found, why = saved.attempt(saved.part, step, wanted)
        if why:
            raise InputError(f"{where} cannot be read, or does not fit {lm.path} ({why})")
    dtype = lm.params["embed"].dtype
    return graphdef, {
        name: state.join(part, frozen, dtype)
        for name, part in (("untrained", initial), ("trained", found["trainable"]))
    }


def _adapted(written: dict, lm, where: str):
    """(graphdef, trainable, frozen) of the base model as the run with these settings began with it."""
    weights = written.get(checkpoints.CONTENT, {}).get("weights")
    found = checkpoints.digest(lm.params)
    if weights is not None and weights != found and not checkpoints.outdated(weights, found):
        raise InputError(
            f"{where} was trained on other base weights than {lm.path} holds now; put those back, or name their "
            f"folder with model.path"
        )
    train = written["train"]
    return state.adapted(lm, settings.typed(Lora, train, "lora"), train["trainable"], written["seed"])


def _model(graphdef, params, tokenizer) -> Model:
    decoder.bind(graphdef, params)  # refuses what does not fit, before anything runs
    return Model(graphdef, params, tokenizer, checkpoints.digest(params))


def spoken(tokenizer, template: dict) -> str:
    """Names how conversations become tokens: by the tokenizer's whole data, and by what the template makes of one; and
    where answers end, as far as that does not follow from these."""
    rendered = templates.render(tokenizer, PROBE, template, opening=True)
    settings = template | {"own": tokenizer.chat_template}
    if ends := stops.only_listed(tokenizer, template):
        settings |= {"ends": ends}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    data = backend.to_str() if backend else sorted(tokenizer.get_vocab().items())
    return journal.key(rendered, settings, data)
