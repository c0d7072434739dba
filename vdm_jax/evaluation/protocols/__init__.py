"""Measurement protocols: what a protocol is, those of the papers, and their prompts."""
