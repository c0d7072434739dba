"""Frozen text encoders: one file per published architecture, and what reading their folders shares."""
