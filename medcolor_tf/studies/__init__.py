"""Many runs: the grid that a study plans, and the runner that works it off."""
