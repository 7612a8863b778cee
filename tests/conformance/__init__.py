"""The numbered statements of the standards, one test for each, against a broker without sockets."""
