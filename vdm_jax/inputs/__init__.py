"""What users give, each read by one rule everywhere: paths, text files, captions and words."""
