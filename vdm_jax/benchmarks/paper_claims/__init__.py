"""The papers' claims at the scale of two CPU cores: models of several seeds, paired differences, 95 % intervals."""
