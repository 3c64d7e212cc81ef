"""The torch-free runtime: bundles, preprocessing, vocabularies, backends and the Tagger."""
