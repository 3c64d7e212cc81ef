"""Serves a bundle to many clients at once: batches, and vocabularies that change while it runs."""
