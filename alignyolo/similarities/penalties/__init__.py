"""IoU less a penalty for sides, centres or corners that differ; 1 for identical boxes."""
