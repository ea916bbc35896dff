"""Damaged checkpoints, documents, templates and tokenizers by the million: `make fuzz`."""
