"""Studies: one file each, read from top to bottom.  Here stations meet, and strings become functions."""
