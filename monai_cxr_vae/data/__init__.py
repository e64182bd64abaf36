"""Films as data: lists, splits, readers, writers, cache, phantom."""
