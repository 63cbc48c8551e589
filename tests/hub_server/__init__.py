"""A Hub on the loopback interface: what the real client requests, from repositories in memory.

with Hub() as hub:
    hub.add("org/activation", kernel_files("activation"), tag="v0.0.1")
    ...  # HF_ENDPOINT=hub.endpoint
    assert [request.kind for request in hub.requests] == ["organization", "refs", ...]
"""

from hub_server.environment import client_environment, forget, settings
from hub_server.faults import FAULTS, Fault
from hub_server.forks import Fork, Forks
from hub_server.kernels import kernel_files
from hub_server.requests import Request, longest_chain, round_trips
from hub_server.server import Hub

__all__ = [
    "FAULTS",
    "Fault",
    "Fork",
    "Forks",
    "Hub",
    "Request",
    "client_environment",
    "forget",
    "kernel_files",
    "longest_chain",
    "round_trips",
    "settings",
]
