"""The yardstick of the embedded digits: networks that read digits and scenes in videos, and their protocols."""
