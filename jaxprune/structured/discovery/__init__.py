"""The structure of any network, found in its program."""

from jaxprune.structured.discovery.finding import Discovered, discover

__all__ = ["Discovered", "discover"]
