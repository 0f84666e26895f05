"""`python -m masa_lightning.cli` is `masa`."""

from masa_lightning.cli import main

main()
