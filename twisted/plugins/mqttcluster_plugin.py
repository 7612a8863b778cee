# By this `twistd mqttcluster` finds mqttcluster.tap. No __init__.py beside it: the directory is part of twisted's own.
from twisted.application.service import ServiceMaker

mqttcluster = ServiceMaker("mqttcluster", "mqttcluster.tap", "An MQTT broker with a durable store.", "mqttcluster")
