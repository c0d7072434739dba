"""Metrics of videos: one file each, arrays in and numbers out."""
