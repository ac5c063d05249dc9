"""Configs: one small file per model, over the defaults of `default.py`."""
