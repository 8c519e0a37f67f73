"""The table that laws are fitted to: runs, from records, files and training curves."""
