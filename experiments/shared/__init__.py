"""What studies share: the skeleton, settings, data, networks, tables of functions, pages."""
