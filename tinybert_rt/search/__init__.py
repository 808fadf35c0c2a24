"""Offline search: files in, an index in one file, passages out."""
