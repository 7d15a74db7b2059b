"""Building blocks that models share: pure torch, no anomalib and no Lightning."""
