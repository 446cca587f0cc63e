"""The one error that a user can mend."""


class UserError(Exception):
    """A mistake of the user's: says what, where, and what to do. `cli.py` prints it without a traceback, and only `cli.py` does."""
