"""Weight files as their projects publish them (torch, npz), and how their tensors become our parameters."""
