"""Export: from checkpoints to bundles, and from bundles to engines."""
