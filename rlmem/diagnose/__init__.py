"""Questions to a memory: supervised tasks with a known optimum and chance, and costs."""
