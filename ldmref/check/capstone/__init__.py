"""The examiner of the course's capstone: it marks its pieces and names the likely mistakes.

A piece is a function that a student writes, such as `residual_block`. It gets the embedded model's
weights, as the student's own `read_weights` reads them, and its result is compared with that of
ldmref's network. If it is wrong, the network is computed again with each likely mistake: the one
that gives the student's result is named.
"""

from ldmref.check.capstone.marking import PIECES, mark_pieces, nearly_pieces, piece_names

__all__ = ["PIECES", "mark_pieces", "nearly_pieces", "piece_names"]
