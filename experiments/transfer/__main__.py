"""The command of the study."""

from experiments import transfer
from experiments.shared.study import command

if __name__ == "__main__":
    command(transfer.STUDY, transfer.Settings, transfer.__doc__)
