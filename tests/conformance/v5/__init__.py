"""What MQTT 5.0 asks of a server, by chapter of the standard.

``stage``  clients of version 5 in a world without sockets
``judge``  watches all their connections and notes what a server must never do, whatever a test is about
"""
