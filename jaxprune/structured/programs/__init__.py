"""Networks saved as programs: loaded without the code that made them, and networks again."""

from jaxprune.structured.programs.folders import load_program, save_program

__all__ = ["load_program", "save_program"]
