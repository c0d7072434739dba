"""Experiments: one file each, whose docstring is its model card. `--config=NAME` finds them wherever it is run."""
