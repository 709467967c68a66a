"""Notebooks as files: their parameters, their runs, the pages and the ledger made of them."""


class RefusedError(ValueError):
    """Something the user asked for that cannot be done; the message says what was found, what is wanted, what to do."""
