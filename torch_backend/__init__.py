"""The PyTorch fallback of jaxconv. Nothing here imports jaxconv."""
