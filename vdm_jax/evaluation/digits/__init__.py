"""The yardstick of the embedded digits: networks that read digits and scenes in videos, their protocols and training."""
