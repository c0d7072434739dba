"""Files in which projects publish the weights of feature networks: torch, npz, and how their tensors become parameters."""
