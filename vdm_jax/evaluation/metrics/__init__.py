"""Video metrics, one file each. `table.METRICS` lists those that a protocol can name, `contract` says what they are.

Fréchet distance, Inception Score and CLIPSIM are in the table. Diversity, precision and recall, memorization
(`neighbors`) and motion are part of every record. Drift and detail are computed where they apply.
"""
