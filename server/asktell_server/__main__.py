"""`python -m asktell_server`."""

if __name__ == "__main__":  # compute processes import this module, too, and need none of it
    from asktell_server.cli import main

    main(prog_name="asktell serve")
