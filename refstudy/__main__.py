"""`python -m refstudy` is the command `refstudy`."""

from refstudy.cli import main

if __name__ == "__main__":
    main()
