"""Learns heads from images with labels: data, losses, metrics, cached features, trainers."""
