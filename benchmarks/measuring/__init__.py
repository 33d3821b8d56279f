"""What the benchmarks share: copies of photos, sides measured in turns, the memory of processes, an older peer."""
