"""The command ``lychgate``.

``app`` holds the application and the list of commands, ``commands`` how each of them is written. What a command does
stands in a file of its own; what these share (exit codes, loading, printing) in ``common``.
"""


def main() -> None:
    """Run the command line; the entry point of the command."""
    from gateway.cli.app import app

    app()
