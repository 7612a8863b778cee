"""A soak: random faults against a cluster of real nodes, and books that say whether its promises held.

Not collected by pytest. `python -m tests.cluster.soak --help` tells how to run it.

``world``      Redis and the nodes, and what is done to them
``packets``    what the wire helpers of the other tests cannot say: CONNECT with limits, wills and expiry
``peer``       one client id: its connections, both halves of its protocol state, and what it noted in its book
``clients``    the cast: who publishes, reads, shares, dies with a will, and what each of them does at random
``rules``      what docs/cluster.md promises, asked of the books once everything is quiet
``__main__``   the command: rounds of storm and calm
"""
