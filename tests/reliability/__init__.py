"""What happens to outputs when processes die."""
