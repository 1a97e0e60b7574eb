"""Plain Linen blocks with explicit fields, shared by all model families."""
