"""The one error that users see: a line that names the input, what is wrong with it and what to do."""


class InputError(ValueError):
    """Bad input. `main` prints its message as one line and exits with status 2; library callers catch it."""
