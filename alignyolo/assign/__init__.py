"""Which anchors answer for which truths: metric, thresholds and forcing as pieces, and what is composed of them."""
