"""The papers' claims at the scale of two CPU cores: trained seeds, paired differences, 95 % intervals."""
