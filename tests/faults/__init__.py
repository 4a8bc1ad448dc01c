"""A server under faults, and a model of the contract that judges the history of it.

history     what clients asked for and what came of it
clients     clients of every method, that record; watchers
deployment  the processes of a server: started, killed, paused, with a proxy before each
proxy       a TCP proxy that delays, holds back and resets
nemesis     does harm at random moments, by a seed
checker     the model: what a history and the database after it must satisfy
rounds      one run of all of these
server      the server's command line, with a clock that can be set and, for the checker's own tests, a planted bug (mutants)
"""
