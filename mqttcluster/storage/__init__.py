"""Floor 2: what outlives a connection, a node, a power cut.

``interfaces``  what every store promises, in `IStore`
``records``     messages, wills and subscriptions as versioned bytes
``worker``      a thread that turns whatever has queued up into one transaction
``memory``      the store to read first: dictionaries
``sqlite``      the default: one file, group commit; in parts: ``sqlite_file`` (opening), ``sqlite_ledger`` (the rules),
                ``sqlite_accounts`` (what is known without reading), ``sqlite_queues``, ``sqlite_writes`` (the rows of a
                batch), ``sequences`` (what is left of a queue)
"""
