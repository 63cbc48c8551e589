"""Asking the Hub: transport, answers, cache, versions, trust, and installing a build."""
