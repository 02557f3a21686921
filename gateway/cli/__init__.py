"""The command ``lychgate``.

``app`` holds the application and the list of commands, ``commands`` how each of them is written. What a command does
stands in a file of its own; what these share (exit codes, loading, printing) in ``common``.
"""

import os
from typing import Final

_STANDARD_ERROR: Final = 2


def main() -> None:
    """Run the command line; the entry point of the command."""
    fill_standard_descriptors()
    from gateway.cli.app import app

    app()


def fill_standard_descriptors() -> None:
    """Let descriptors 0 to 2 lead nowhere where they are closed: or what is printed would go into the next socket."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    os.close(descriptor)
