"""Tests of kvbench.models; a package, so that file names may repeat elsewhere in the tree."""
