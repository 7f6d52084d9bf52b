"""`python -m etude`: the command line."""

from etude.cli.main import main

main()
