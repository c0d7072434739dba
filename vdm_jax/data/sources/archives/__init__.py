"""Sources whose clips are inside larger files: WebDataset's tar shards, and Parquet or Arrow tables."""
