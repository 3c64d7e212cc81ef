"""Where events go as they happen: brokers that other programs listen to."""

from ovml_deploy.pipelines.video.sinks.kafka import KafkaSink
from ovml_deploy.pipelines.video.sinks.mqtt import MqttSink

__all__ = ["KafkaSink", "MqttSink"]
