"""The command line: thin ways to call the stages, and commands that only look."""

from mvfl.cli.app import main

__all__ = ["main"]
