"""Errors that are printed without a traceback, by `cli.py` and only there."""


class UserError(Exception):
    """A mistake that the user can mend: says what, where, and what to do."""

    exit_code = 2  # wrong use


class WorkFailed(UserError):
    """The use was right, but the work failed: nothing could be ingested, a run diverged."""

    exit_code = 1
