"""How fast it is: medians and ratios, all cases interleaved in one process."""
