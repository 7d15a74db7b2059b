"""The models of this package, one folder each."""
