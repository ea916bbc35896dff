"""Programs that save training state with the libraries that people train with, in an environment of their own."""
