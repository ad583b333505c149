"""Units that move together: rated, switched off by gates, and removed for real.

Start with ``jaxprune.groups``, which says what a group and a specification are.

    discover(network, images)                    the units of any network, from its program
    ones, gated, remove, compact                 gates; units switched off; cut from a specification, or any program
    criteria, effects                            ratings: of weights and activations; of what removal does
    drop_units, drop_layers, limited             which of them go, and which may
    prune_jointly(network, groups, batches, 0.5) by the exact Hessian of all gates, kept ones re-adjusted
    Search(criteria=..., chooser=..., tune=...)  a step at a time, with training between
    verify(network, groups)                      whether groups that were declared are right
    widths(network, groups, gates)               of what is left, for owners who rebuild their module
    save, load, save_program, load_program       a specification, or any program, without pickle; ``export`` for servers
"""

from jaxprune.groups import Group, Member, Specification
from jaxprune.structured import budgets, choosers, criteria, effects
from jaxprune.structured.accounting import Account, account
from jaxprune.structured.choosers import Chooser
from jaxprune.structured.compensation import readjusted
from jaxprune.structured.criteria import Criterion
from jaxprune.structured.declared import Declared
from jaxprune.structured.discovery import Discovered, Traced, compact, discover
from jaxprune.structured.folding import fold
from jaxprune.structured.gates import factored, gated, ones
from jaxprune.structured.interactions import gate_hessian
from jaxprune.structured.joint import JointPruning, prune_jointly
from jaxprune.structured.limits import drop_shares, limited
from jaxprune.structured.programs import load_program, save_program
from jaxprune.structured.rebuilding import Widths, widths
from jaxprune.structured.removal import remove, restore
from jaxprune.structured.searching import Compaction, Search, Tune
from jaxprune.structured.selection import ALLOCATIONS, drop_layers, drop_units
from jaxprune.structured.steps import Step, reopen
from jaxprune.structured.storage import export, export_pytorch, load, preprocess_of, save
from jaxprune.structured.verification import verify

__all__ = [
    "ALLOCATIONS",
    "Account",
    "Chooser",
    "Compaction",
    "Criterion",
    "Declared",
    "Discovered",
    "Group",
    "JointPruning",
    "Member",
    "Search",
    "Specification",
    "Step",
    "Traced",
    "Tune",
    "Widths",
    "account",
    "budgets",
    "choosers",
    "compact",
    "criteria",
    "discover",
    "drop_layers",
    "drop_shares",
    "drop_units",
    "effects",
    "export",
    "export_pytorch",
    "factored",
    "fold",
    "gate_hessian",
    "gated",
    "limited",
    "load",
    "load_program",
    "ones",
    "preprocess_of",
    "prune_jointly",
    "readjusted",
    "remove",
    "reopen",
    "restore",
    "save",
    "save_program",
    "verify",
    "widths",
]
