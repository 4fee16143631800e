"""`python -m tunesmith`, where the command is not on the path."""

from tunesmith.cli.main import main

if __name__ == "__main__":
    main()
