"""The command of the study."""

from experiments import methods
from experiments.shared.study import command

if __name__ == "__main__":
    command(methods.STUDY, methods.Settings, methods.__doc__)
