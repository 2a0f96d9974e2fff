"""The one error that a user can cause."""


class InputError(ValueError):
    """Something the user gave is wrong; the message names it, the value received and what is allowed.

    The command line shows the message as one sentence and exits with code 2. Every other exception is a
    defect of the program and keeps its traceback.
    """
