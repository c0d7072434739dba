"""Weight files of PyTorch and NumPy, read tensor by tensor without executing anything in them."""
