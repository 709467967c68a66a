"""Notebooks as files: their parameters, their runs, the pages and the ledger made of them."""
