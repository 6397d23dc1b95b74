"""python -m fercore: the same door for scripts and clusters."""

from fercore.cli import main

main()
