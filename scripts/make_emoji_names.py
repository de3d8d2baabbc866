"""Write ldmref/assets/emoji-names.txt from Unicode's emoji-test.txt.

    python scripts/make_emoji_names.py /usr/share/unicode/emoji/emoji-test.txt

The file is in the Debian package unicode-data (15.0) and at
https://www.unicode.org/Public/emoji/15.0/emoji-test.txt.
"""

import re
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "ldmref" / "assets" / "emoji-names.txt"
HEADER = """\
# The fully qualified emoji of Unicode 15.0 and their names, by subgroup ("> subgroup"). Extracted
# from emoji-test.txt, (c) 2022 Unicode, Inc., by scripts/make_emoji_names.py; code points,
# statuses and versions are left out. Terms of use: https://www.unicode.org/terms_of_use.html
#
# UNICODE LICENSE V3
# COPYRIGHT AND PERMISSION NOTICE
# Copyright (c) 1991-2022 Unicode, Inc. All rights reserved.
# NOTICE TO USER: Carefully read the following legal agreement. BY DOWNLOADING, INSTALLING,
# COPYING OR OTHERWISE USING DATA FILES, AND/OR SOFTWARE, YOU UNEQUIVOCALLY ACCEPT, AND AGREE TO
# BE BOUND BY, ALL OF THE TERMS AND CONDITIONS OF THIS AGREEMENT. IF YOU DO NOT AGREE, DO NOT
# DOWNLOAD, INSTALL, COPY, DISTRIBUTE OR USE THE DATA FILES OR SOFTWARE.
# Permission is hereby granted, free of charge, to any person obtaining a copy of data files and
# any associated documentation (the "Data Files") or software and any associated documentation
# (the "Software") to deal in the Data Files or Software without restriction, including without
# limitation the rights to use, copy, modify, merge, publish, distribute, and/or sell copies of
# the Data Files or Software, and to permit persons to whom the Data Files or Software are
# furnished to do so, provided that either (a) this copyright and permission notice appear with
# all copies of the Data Files or Software, or (b) this copyright and permission notice appear in
# associated Documentation.
# THE DATA FILES AND SOFTWARE ARE PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
# IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A
# PARTICULAR PURPOSE AND NONINFRINGEMENT OF THIRD PARTY RIGHTS. IN NO EVENT SHALL THE COPYRIGHT
# HOLDER OR HOLDERS INCLUDED IN THIS NOTICE BE LIABLE FOR ANY CLAIM, OR ANY SPECIAL INDIRECT OR
# CONSEQUENTIAL DAMAGES, OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS,
# WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN
# CONNECTION WITH THE USE OR PERFORMANCE OF THE DATA FILES OR SOFTWARE.
# Except as contained in this notice, the name of a copyright holder shall not be used in
# advertising or otherwise to promote the sale, use or other dealings in these Data Files or
# Software without prior written authorization of the copyright holder.
"""


def names_file(source: str) -> str:
    """Return the text of the file: a line per subgroup and emoji, in the order of the source."""
    lines = []
    for line in source.splitlines():
        if line.startswith("# subgroup:"):
            lines.append("> " + line.split(":", 1)[1].strip())
        elif "; fully-qualified" in line:
            [(characters, name)] = re.findall(r"# (\S+) E[\d.]+ (.*)", line)
            lines.append(f"{characters} {name}")
    filled = [
        line
        for line, following in zip(lines, [*lines[1:], ">"], strict=True)
        if not (line.startswith(">") and following.startswith(">"))
    ]
    return HEADER + "\n".join(filled) + "\n"


if __name__ == "__main__":
    TARGET.write_text(names_file(Path(sys.argv[1]).read_text("utf-8")), "utf-8")
