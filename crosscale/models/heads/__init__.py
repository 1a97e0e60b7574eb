"""Heads: modules that take Features and give what a task learns. Each stands in a file of its own."""
