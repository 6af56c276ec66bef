"""`python -m headsearch` is the command `headsearch`."""

from headsearch.cli import main

main()
