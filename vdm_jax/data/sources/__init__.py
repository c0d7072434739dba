"""Where clips come from: one file per kind of source, and the catalog that opens them by name."""
