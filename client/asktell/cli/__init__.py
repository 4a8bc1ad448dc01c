"""The command line `asktell` (extra `asktell[cli]`): a thin layer over the client that prints for people and machines.

entry      console script; says what to install when click is missing
app        the root command: global options, errors, serve, demo
studies, trials, transfer, watching    the other commands
output     one record or a table, as a rich table, tab-separated text or JSON
records    messages of the contract <-> plain values
studyfile  a study as a short YAML or JSON document <-> its spec
flat       trials <-> rows of a CSV file
files      YAML and JSON without surprises
"""
