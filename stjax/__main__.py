"""`python -m stjax` is `stjax`."""

from stjax.cli import main

if __name__ == "__main__":
    main()
