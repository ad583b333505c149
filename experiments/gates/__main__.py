"""The command of the study."""

from experiments import gates
from experiments.shared.study import command

if __name__ == "__main__":
    command(gates.STUDY, gates.Settings, gates.__doc__)
