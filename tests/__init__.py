"""So that no package called tests that a dependency installs is taken for this one."""
