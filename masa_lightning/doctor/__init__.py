"""What `masa doctor` looks at: whether this machine is ready to train, and how fast it is.

A check is a generator in a file of its own kind (`machine`, `packages`, `surroundings`, `engine`, `training`). Each runs in
a process of its own (`runner`), so that one that dies or hangs is a failed line and hides no other. `examination` says which
there are, `report` how it is told.
"""
