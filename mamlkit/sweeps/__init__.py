"""Batch reruns: notebooks over a grid of parameters and seeds, on Dask, and what their results say."""
