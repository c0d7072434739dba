"""Measurement protocols: the contract, the table, those of the papers, and their prompts."""
