"""The command line: parses, calls, prints."""

from headsearch.cli.app import cli, main

__all__ = ["cli", "main"]
