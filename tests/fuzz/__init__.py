"""Damaged checkpoints by the thousand: `make fuzz SECONDS=60`."""
