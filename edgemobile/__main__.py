"""`python -m edgemobile`: the command line if its script is not on the PATH."""

from edgemobile.cli import main

if __name__ == "__main__":
    main()
