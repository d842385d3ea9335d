"""Actors without their critics: plain PyTorch modules and exported files."""
