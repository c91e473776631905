"""WHERE trials run: Ray sessions, placement groups and warm gangs of ranks."""
