"""The analysis alone, of a model as it is or of a run that has trained. The small decoder: four minutes, 2.2 GB.

python -m welfare_jax.main --config=configs/axes.py --config.model.path=DIR --workdir=runs/axes
python -m welfare_jax.main --config=configs/axes.py --config.run=runs/tiny --workdir=runs/tiny_axes
Vectors, geometry, comparison axes, report. Axes are made from the package's own small samples; name files of your own
with --config.axes.reviews=FILE and so on.
"""

from welfare_jax.config import rl


def get_config():
    config = rl()
    config.job = "axes"
    config.run = ""  # the --workdir of a run: its settings hold, and its trained model is read beside the untrained
    config.model.path = "tiny"
    return config
