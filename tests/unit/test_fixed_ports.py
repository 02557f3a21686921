"""No test has a port of its own: those that the project names are taken while tests run, and connections are found."""

import socket

from tests.support.fixed_ports import connected, fixed_ports


def test_the_ports_of_the_demo_are_among_those_that_are_taken() -> None:
    """And those of the Postfix of the examples, which are in many tests."""
    assert {2525, 2526, 10025} <= fixed_ports()


def test_who_connects_is_found_once() -> None:
    """Each connection is told at the next look, and not again."""
    with socket.socket() as one, socket.socket() as other:
        for listening in (one, other):
            listening.bind(("127.0.0.1", 0))
            listening.listen()
        assert connected([one, other]) == []
        with socket.create_connection(other.getsockname()):
            assert connected([one, other]) == [other.getsockname()[1]]
        assert connected([one, other]) == []
