"""Parts of a run between its networks, each judged by calling its own function again.

| module       | what it has                                                        |
|--------------|--------------------------------------------------------------------|
| `visit`      | a recorded call of a part, its rounding and its causes             |
| `hypotheses` | the causes: one input or declared parameter changed                |
| `rules`      | the rule of a recorded call, also as other programs record it      |
"""
