def write(study, rows, console):

    return study.out
