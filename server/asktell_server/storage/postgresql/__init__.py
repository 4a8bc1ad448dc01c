"""Studies in PostgreSQL, which several servers may share.

connecting     what a URL means, connections and their settings
knowledge      who changed a study last, and how this server left it
transaction    the Transaction of `storage.base` under row locks, its writes sent without waiting
writer         works that wait share a transaction, and are put off while another server holds their study
listening      what other servers did, by LISTEN and NOTIFY
storage        all of it as a Storage
"""
