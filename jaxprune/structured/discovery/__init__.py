"""The structure of any network, found in its program; and the program at smaller sizes."""

from jaxprune.structured.discovery.compacting import Traced, compact
from jaxprune.structured.discovery.finding import Discovered, discover

__all__ = ["Discovered", "Traced", "compact", "discover"]
