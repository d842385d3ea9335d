"""Actors without critics: plain PyTorch modules and exported files."""
