"""Boxes with a class and a score."""
