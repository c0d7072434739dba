"""Where clips come from: the contract of a source, one file per kind of source, and the catalog that opens them."""
