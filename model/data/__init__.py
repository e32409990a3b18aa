"""Crystals on disk, and held on the device for training."""
