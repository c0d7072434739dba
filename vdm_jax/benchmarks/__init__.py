"""What the library costs and what it reaches, to measure on your own machine."""
