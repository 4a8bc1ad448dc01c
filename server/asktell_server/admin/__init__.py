"""Commands of those who operate a server. They work on its database, not through its port.

    python -m asktell_server.admin COMMAND        what `asktell COMMAND` runs

Each command is a module with a click command of its name, listed in `__main__`.
"""
