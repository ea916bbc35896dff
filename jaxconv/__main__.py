"""`python -m jaxconv`."""

from jaxconv.cli import run

run()
