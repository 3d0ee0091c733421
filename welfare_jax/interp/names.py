"""What a vector is, and the one way from there to its names in files and tables and back."""

import dataclasses
import pathlib

LETTERS = {"trained": "v", "untrained": "u", "": ""}  # of a model's vectors, in labels
RESIDUAL = "residual"  # in place of a baseline: what is left of a vector beside the comparison axes


@dataclasses.dataclass(frozen=True)
class Vector:
    """A class's direction in one model, or another one, or a control beside either."""

    of: str  # the class of episodes, or what else it is a direction of
    baseline: str = ""  # that the class was held against (`geometry.BASELINES`), or RESIDUAL
    model: str = ""  # "trained" or "untrained"; empty where nothing says
    hook: str = "resid_post"
    position: str = ""  # where in an episode it was read
    control: str = ""  # its kind and number where it is a control, as random_3

    @property
    def entry(self) -> str:
        """Its name in a vector file: mold/rest."""
        return f"{self.of}/{self.baseline}" if self.baseline else self.of

    @classmethod
    def of_entry(cls, entry: str, **about) -> "Vector":
        of, _, baseline = entry.partition("/")
        return cls(of, baseline, **about)

    @property
    def label(self) -> str:
        """Its name in tables and on the command line's cells: v_mold, and random_3/v_mold for a control beside it."""
        letter = LETTERS[self.model]
        label = f"{letter}_{self.of}" if letter else self.of
        return f"{self.control}/{label}" if self.control else label

    @classmethod
    def of_label(cls, label: str) -> "Vector":
        control, _, label = label.rpartition("/")
        model = next(m for m, letter in LETTERS.items() if label.startswith(letter + "_" * bool(letter)))
        return cls(label[len(LETTERS[model]) + bool(model) :], model=model, control=control)


def file(workdir, model: str, kind: str = "") -> pathlib.Path:
    """A run's vector file: of a model, its comparison axes (kind "axes"), or class vectors under "permuted" labels."""
    return pathlib.Path(workdir) / "vectors" / f"{'_'.join(filter(None, (kind, model)))}.safetensors"


def files(workdir, kind: str = "") -> dict[str, pathlib.Path]:
    """{model: its file} of those that are there, the trained model's first."""
    return {model: path for model in LETTERS if model and (path := file(workdir, model, kind)).is_file()}
