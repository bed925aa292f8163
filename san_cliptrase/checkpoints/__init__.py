"""Checkpoints that are read without executing anything, written whole or not at all, and checked against the model."""
