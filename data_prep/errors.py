"""The one error a user may meet: what was found, what was expected, and what to do about it."""


class InputError(Exception):
    """Bad input or bad usage. Command lines print the message on one line and exit with code 2."""
