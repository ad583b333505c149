"""Why a file is not read: what is wrong with it, and what to do."""

AGAIN = "Copy or download it again, and compare its size and checksum with its source's."


class Refusal(ValueError):
    """Something that a reader will not accept; ``read`` adds the path.

    Args:
      what: continues "expected an intact file, but ...".
      remedy: a sentence.
    """

    def __init__(self, what: str, remedy: str = AGAIN) -> None:
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def about(self, path: object) -> ValueError:
        """The error of one file."""
        # A damaged file can have names of any length.
        what = self.what if len(self.what) <= 500 else self.what[:497] + "..."
        return ValueError(f"{path}: expected an intact file of tensors, but {what}. {self.remedy}")


class Allowance:
    """Memory that values made from a file may take, beside the file's own bytes.

    A few bytes can ask for much: a thousand levels of lists that each name the one below twice, say.  What is built is
    therefore paid for beforehand, by an upper estimate.
    """

    def __init__(self, size: int) -> None:
        self.left = size

    def spend(self, size: int) -> None:
        """Takes bytes from what is left.

        Raises:
          Refusal: there are not as many.
        """
        self.left -= size
        if self.left < 0:
            raise Refusal(
                "its values beside the tensors need more memory than any network's",
                "Save the tensors alone, as one dictionary.",
            )
