"""The errors that users see: one line each."""


class InputError(ValueError):
    """Bad input: a line that names it, what is wrong with it and what to do. `main` prints it and exits with 2."""

    def __init__(self, line: str):
        super().__init__(" ".join(str(line).splitlines()))  # names in files may hold line ends


class Unfinished(Exception):
    """A run that stops early with everything saved: the same command continues. `main` prints it and exits with 75."""
