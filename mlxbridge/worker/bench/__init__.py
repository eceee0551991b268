"""Measurements of the worker. They are run by hand and by mlxctl's own benchmarks, and are not shipped."""
