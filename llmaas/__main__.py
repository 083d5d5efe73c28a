"""`python -m llmaas`: the same program as the `llmaas` command."""

from llmaas.cli import main

if __name__ == "__main__":
    main()
