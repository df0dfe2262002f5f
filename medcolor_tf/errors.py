"""The one exception that stands for "the user's input is at fault, and this is how to mend it"."""


class InputError(ValueError):
    """Bad input: a file, row or flag.

    The message names what was read, what was expected and what was received. Commands print it
    without a traceback and exit with status 2.
    """
