"""The command of the study."""

from experiments import landscape
from experiments.shared.study import command

if __name__ == "__main__":
    command(landscape.STUDY, landscape.Settings, landscape.__doc__)
