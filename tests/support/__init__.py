"""What the tests share.

``wire``         packets as bytes, written without the code under test, and a blocking client that speaks them
``process``      a broker as a real process: start, kill, restart, log
``ports``        ports that nobody else gets
``brokers``      how to start mqttcluster, and another broker for comparison
``certificates`` a certificate authority for one test run
``persistent``   publishers and subscribers that keep their half of a session over a crash
``conformance``  rules of the standard, the tests that prove them, and the page that shows both
"""
