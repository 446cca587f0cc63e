"""Errors that only `cli.py` prints, without a traceback."""


class UserError(Exception):
    """A mistake that the user can correct. The message says what, where, and what to do."""

    exit_code = 2  # exit code of wrong use


class WorkFailed(UserError):
    """A failure of the work despite correct use: nothing was ingested, or a run diverged."""

    exit_code = 1
