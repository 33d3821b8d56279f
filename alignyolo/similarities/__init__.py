"""Box similarities, 1 for identical boxes; the box loss is `1 - similarity`. alignyolo/registry.py lists them."""
