"""What feeds a Tagger and what becomes of its results: folders, pictures."""
