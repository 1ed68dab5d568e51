"""``python -m sparsecc.cli``, for where the ``sparsecc`` script is not on the path."""

from sparsecc.cli.app import main

main()
