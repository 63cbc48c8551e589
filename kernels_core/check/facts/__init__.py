"""What rules judge: facts about a repository, read without running any of it."""
