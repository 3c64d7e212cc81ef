"""Knowledge of categories, to train on without images: where it comes from, and its file."""
