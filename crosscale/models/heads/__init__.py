"""Heads: modules that take Features and give what a task learns. Each has a file of its own."""
