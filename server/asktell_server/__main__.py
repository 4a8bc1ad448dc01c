"""`python -m asktell_server`."""

from asktell_server.cli import main

if __name__ == "__main__":
    main(prog_name="asktell serve")
