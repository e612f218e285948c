"""Tests of kvbench.measure; a package, so that file names may repeat elsewhere in the tree."""
