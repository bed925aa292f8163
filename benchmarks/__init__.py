"""Measurements against numbers that others made, and of speed."""
