"""The Hub: requests, answers, the cache, versions, trust, and installing a build.

`huggingface_hub` is imported in the functions that use it: with its HTTP client and its file locks
it takes 40 ms, and a program that only loads local kernels uses none of them.
"""
