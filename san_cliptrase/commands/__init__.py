"""The command line: what can be asked for, and where it is done.

Modules of this room import nothing heavy when they are imported, so that ``--help`` and usage errors cost no time.
"""
