"""The model families, each a folder, and the table that names them."""
