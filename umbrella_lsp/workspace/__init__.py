"""The workspace's files: a process of their own walks, reads, parses and watches them (`indexing`).

`client.Workspace` is the server's handle on it, and all that the rest of the server sees.
"""
