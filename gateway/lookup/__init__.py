"""Look-ups elsewhere, without I/O: what asking about an address comes to, and the protocols by which one asks.

``answer`` has the results and the interface of whatever is asked; ``template`` puts parts of an address into a text;
``ldap``, ``ldap_filter`` and ``ber`` are the client's half of LDAP, ``socketmap`` and ``tcp_table`` that of Postfix's
look-up protocols.
"""
