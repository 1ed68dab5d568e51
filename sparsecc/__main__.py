"""``python -m sparsecc``."""

from sparsecc.cli import main

main()
