"""The command of the study."""

from experiments import representation
from experiments.shared.study import command

if __name__ == "__main__":
    command(representation.STUDY, representation.Settings, representation.__doc__)
