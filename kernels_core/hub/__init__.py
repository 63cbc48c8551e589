"""The Hub: requests, answers, the cache, versions, trust, and installing a build."""
