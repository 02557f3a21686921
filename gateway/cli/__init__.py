"""The command ``lychgate``.

``app`` holds the application and the list of commands; each command is a function in a file of its own. What they
share (exit codes, ``--config``, printing) stands in ``common``.
"""


def main() -> None:
    """Run the command line; the entry point of the command."""
    from gateway.cli.app import app
    from gateway.log import configure

    configure("warning")  # standard output is the command's own; ``serve`` sets its log up once more
    app()
