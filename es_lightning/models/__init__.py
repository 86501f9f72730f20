"""Models in and out: base models, their weights on disk, the embedded ones, exports and cards."""
