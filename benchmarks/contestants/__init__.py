"""One module a contestant: the same work behind different plumbing, each a process of its own."""
