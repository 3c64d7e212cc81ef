"""Builds the embedded model from two pretrained towers, WordNet and a folder of photographs."""
