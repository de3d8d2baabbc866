"""The faults by number, and what happens: the text of docs/reliability.md."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A fault, and the answer to it."""

    fault: str
    answer: str


BLOCKS = {  # first row -> heading
    1: "Model files",
    32: "Tokenizer and prompt",
    42: "Numbers",
    60: "Images and masks",
    80: "Run time",
    111: "Plug-ins and supply chain",
    119: "Other files",
    128: "Output and settings",
}

_TEXT = """
1|pickle with a payload|refused unread; the hint names `ldmref convert`
2|pickle or archive named .safetensors|recognised by its first bytes and refused
3|fallback to another loader after a refusal|never: `convert` refuses what is not a tensor by name
4|Git LFS pointer|named as one, with `git lfs pull`
5|HTML page saved as a model|named as one
6|empty or seven-byte file|refused as damaged
7|header longer than the file or than 100 MB|refused before anything is allocated
8|truncated file, trailing bytes|refused
9|overlapping, identical, holed, reversed offsets|refused
10|negative or overflowing shapes, offsets that are not whole|refused
11|duplicate names in the header|refused
12|header padded with NUL|refused
13|deeply nested header|refused, without a RecursionError
14|unknown data type, bfloat16|refused by name; bfloat16 is read as float32
15|float64 or float16 weights|accepted
16|NaN or infinite weights|refused with the first names, unless allowed
17|tensor of zeros only|warning
18|missing and unexpected tensors|refused, with their number and names
19|tensors of other shapes, another family|refused, with what it looks like
20|v-prediction|read from the checkpoint's configuration
21|LoRA, embedding or autoencoder as a model|refused, with what it is
22|diffusers folder without components, paths in its index|refused; none of them is followed
23|configuration that names code|never imported
24|hostile numbers in a configuration|refused before anything is built
25|FIFO, device, socket, folder as a model file|refused without waiting
26|file that shrinks while it is used|an error, never a crash
27|missing or unreadable model|refused with its name
28|archive as a model|refused; nothing is extracted
29|embedded model with a flipped byte|refused when loaded; `doctor` reports it
30|one file loaded by many at once|works
31|model of a newer version|refused with the version
32|prompt longer than the text encoder reads|cut with a warning, refused if strict
33|empty prompt|valid: unconditional
34|emoji, right-to-left, CJK, combining marks|drawn
35|NUL and control characters|kept in the JSON, left out of A1111's text
36|lone surrogates, bytes that are no UTF-8|refused
37|prompt of 1 MB|refused at once
38|a literal end-of-text token|read as text
39|prompt of another type, lists of unequal length|refused
40|prompt from standard input: BOM, CRLF, Latin-1, closed|read, or refused
41|`(word:1.3)` and `<lora:...>` without the flag|read as text, with a warning
42|steps out of range or of another type|refused; 1 to 1000 are allowed
43|1 step|finite for every sampler
44|guidance scale NaN, infinite, above 50|refused; a warning above 50
45|seed out of range or of another type|refused; 0 to 2^64 - 1, -1 is random
46|another number of seeds than images|refused
47|seed + i beyond 2^64|continues at 0
48|strength 0, below a step, out of range|0 returns the image with a warning; else refused
49|eta, clip skip, mask blur, padding out of range|refused
50|sigmas that do not fall, NaN, length 1|refused
51|sizes that the networks do not divide|refused, with the nearest that work
52|sizes of 0, below 0, too large|refused before anything is allocated
53|count 0, below 0, too large|refused
54|unknown dtype|refused
55|unknown sampler, schedule, backend, device|refused with the nearest name
56|schedule that the sampler cannot use|refused or drawn, never replaced silently
57|decimal comma|refused with a hint
58|latents of another shape, type, with NaN, read-only|refused, or copied; never written to
59|callback that raises or returns something|its error arrives; the next call works
60|16-bit image|scaled, not clipped
61|floating-point image|in [0, 1], or refused
62|transparency|over white
63|CMYK, grey, palette, one bit|converted to RGB
64|EXIF orientation|applied once
65|animation|first frame, with a warning
66|decompression bomb|refused from its header
67|formats other than PNG, JPEG, WebP|refused
68|truncated, empty, text|refused
69|image without or with one pixel|refused, or scaled with a warning
70|compressed text chunk of 80 MB|refused or left unread
71|hostile metadata on replay|checked like every request; no path in it is opened
72|mask of another size|refused with both sizes
73|masks of all kinds|alpha if it varies, else luminance
74|mask all black, all white|the image bit for bit with a warning; img2img
75|masked region smaller than a latent cell|its whole cell is repainted, or a warning says it is not
76|unmasked pixels|bit for bit
77|only the masked region: empty mask, at the border|answered
78|image from a URL or a command|refused; nothing is fetched
79|file name made of a hostile prompt|letters, digits and hyphens, inside the folder
80|backend that is not here|refused, with the reason
81|NaN in latents, U-Net, decoder|an error with the step and layer; never a black image
82|out of memory|an error; the process goes on
83|Ctrl-C|stops after the step, keeps the finished images
84|SIGTERM or SIGKILL in training|a checkpoint, or the previous one
85|full disk|an error; no temporary file stays, an old file is kept
86|output exists|a new number in a folder; a named file is refused
87|many writers to one folder|every image gets a name of its own
88|read-only or missing folder, no HOME|refused, or works without
89|broken pipe, closed standard output|ends quietly
90|threads that share a model|the serial images, bit for bit
91|fork and spawn|work
92|same request in another environment|the same bytes
93|resumed training|equal to uninterrupted training, bit for bit
94|mistakes in settings and environment variables|refused by name
95|time zone, LANG=C, cp1252 and an emoji|no crash
96|old dependencies|lower bounds, tested; `doctor` reports
111|plug-in that fails|hurts nobody who does not name it; named with its package
112|plug-in that takes a built-in name|refused for who asks for it
113|network at run time|nothing connects
114|data set from a path|read as images; no code of it is run
115|Ray|not a dependency
116|list of the backends, of the samplers, `doctor`|imports no plug-in
117|package whose list of entry points is damaged|hurts nobody who does not name it
118|panic of a library: an error that is no `Exception`|an error like every other
119|tokenizer that lets a prompt grow, or never ends|refused; of a tokenizer only words are read
120|caption, table, recipe or settings: FIFO, device, folder, too large|refused without waiting
121|disk that fails while a file is read|named as what cannot be read, not as what is written
122|file that has no size, as those of the system|refused
123|chain of headers in a tar file|refused, without a RecursionError
124|files of a key apart in a tar file|not joined, with a warning
125|pickle whose tensors share a storage|refused above four times the file
126|LoRA with a weight or numbers beyond all bounds|refused by the LoRA's name
127|damaged cache of Hugging Face|as if it lacked the model
128|output that is a link to nothing|refused before anything is drawn
129|several files, of which one exists|refused before the first is written
130|ending of another format|refused
131|working folder that was deleted|refused before anything is drawn
132|value from a variable or a file, of whatever kind|refused with its origin
133|numbers in other digits, with underscores|refused
134|device on which nothing is computed|refused
135|records that the caller changes|copies, not the result's own
"""

ROWS = {
    int(number): Row(fault, answer)
    for number, fault, answer in (line.split("|") for line in _TEXT.strip().splitlines())
}
