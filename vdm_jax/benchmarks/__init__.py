"""Measurements of the library's cost and quality, to repeat on your own machine."""
