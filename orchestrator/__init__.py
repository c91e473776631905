"""IN WHAT ORDER trials run, and what came out: graph, scheduler, store, tracking, verdicts, CLI."""
