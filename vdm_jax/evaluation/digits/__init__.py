"""Evaluation on the embedded digits: classifiers of digits and scenes in videos, and their protocols."""
