"""Running a build in a process of its own, to see what it does."""
