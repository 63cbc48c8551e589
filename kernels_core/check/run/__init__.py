"""Running the build that fits this machine, in processes of its own.

observe     in the process of the check: starts the steps, and collects what they report
process     starting one process, and reading its events
worker      the process that is started; steps has what it does
tests       running the repository's own tests
samples     recording the calls that the tests make
proofs      opcheck, torch.compile and gradients, tried with these calls
"""
