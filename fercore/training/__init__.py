"""The training of one run: `loop.run(config, data, start)`. It reads and writes no record."""
