"""What ``satchel demo`` runs: an agent, its users, the faults, and the audit from outside.

It knows the product as a user does: the commands, the client and the exported files.
"""
