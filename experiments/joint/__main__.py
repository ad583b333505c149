"""The command of the study."""

from experiments import joint
from experiments.shared.study import command

if __name__ == "__main__":
    command(joint.STUDY, joint.Settings, joint.__doc__)
