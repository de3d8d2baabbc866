"""The faults by number, with the behaviour of ldmref: the text of docs/evidence.md."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A fault and the behaviour of ldmref."""

    fault: str
    answer: str


BLOCKS = {  # first row -> heading
    1: "Model files",
    32: "Tokenizer and prompt",
    42: "Numbers",
    60: "Images and masks",
    80: "Run time",
    97: "Server",
    111: "Plug-ins and supply chain",
    119: "Other files",
    128: "Output and settings",
    136: "Cost, and hostile values",
}

_TEXT = """
1|pickle with a payload|refused without unpickling; the hint names `ldmref convert`
2|pickle or archive named .safetensors|recognised by its first bytes and refused
3|fallback to another loader after a refusal|\
does not exist; `convert` names and refuses every object that is not a tensor
4|Git LFS pointer|refused; the message suggests `git lfs pull`
5|HTML page saved as a model|refused as HTML
6|empty or seven-byte file|refused as damaged
7|header longer than the file or than 100 MB|refused before anything is allocated
8|truncated file, trailing bytes|refused
9|overlapping, identical, reversed offsets, offsets with holes|refused
10|negative or overflowing shapes, fractional offsets|refused
11|duplicate names in the header|refused
12|header padded with NUL|refused
13|deeply nested header|refused, without a RecursionError
14|unknown data type, bfloat16|an unknown type is refused by name; bfloat16 is read as float32
15|float64 or float16 weights|accepted
16|NaN or infinite weights|refused with the first names, unless allowed by an option
17|tensor that contains only zeros|accepted with a warning
18|missing and unexpected tensors|refused, with their number and names
19|tensors of other shapes, another family|refused; the message names the nearest family
20|v-prediction|read from the checkpoint's configuration
21|LoRA, embedding or autoencoder passed as a model|refused; the message says what the file is
22|diffusers folder without components, paths in its index|refused; no path is followed
23|configuration that names code|refused; the code is never imported
24|hostile numbers in a configuration|refused before anything is built
25|FIFO, device, socket or folder as a model file|refused without waiting
26|file that shrinks while it is used|an error instead of a crash
27|missing or unreadable model|refused with its name
28|archive as a model|refused; nothing is extracted
29|embedded model with a flipped byte|refused when loaded; `doctor` reports it
30|one file loaded by many threads at once|works
31|model of a newer version|refused with the version
32|prompt longer than the text encoder's limit|\
truncated with a warning, or refused with `strict_prompt`
33|empty prompt|valid: unconditional
34|emoji, right-to-left, CJK, combining marks|an image is generated
35|NUL and control characters|kept in the JSON, left out of A1111's text
36|lone surrogates, bytes that are not UTF-8|refused
37|prompt of 1 MB|refused at once
38|a literal end-of-text token|read as text
39|prompt of another type, lists of unequal length|refused
40|prompt from standard input: BOM, CRLF, Latin-1, closed|\
BOM and CRLF are removed; Latin-1 and a closed input are refused
41|`(word:1.3)` and `<lora:...>` without the flag|read as text, with a warning
42|steps out of range or of another type|refused; 1 to 1000 are allowed
43|1 step|finite for every sampler
44|guidance scale NaN, infinite, above 50|\
NaN and infinity are refused; values above 50 give a warning
45|seed out of range or of another type|refused; 0 to 2^64 - 1 are allowed, and -1 is random
46|number of seeds other than the number of images|refused
47|seed + i beyond 2^64|continues at 0
48|strength 0, below one step, out of range|\
0 returns the image with a warning; other values are refused
49|eta, clip skip, mask blur, padding out of range|refused
50|sigmas that do not decrease, NaN, a single sigma|refused
51|sizes that the networks cannot process|refused; the message names the nearest valid size
52|size zero, negative or too large|refused before anything is allocated
53|count zero, negative or too large|refused
54|unknown dtype|refused
55|unknown sampler, schedule, backend, device|refused with the nearest name
56|schedule that the sampler cannot use|refused or used as given, never replaced silently
57|decimal comma|refused with a hint
58|latents of another shape or type, with NaN, read-only|\
refused or copied; the input is never modified
59|callback that raises or modifies its arguments|\
its exception is passed on, and the next call works; images do not change
60|16-bit image|scaled instead of clipped
61|floating-point image|accepted in [0, 1], refused otherwise
62|transparency|composited on white
63|CMYK, grey, palette, one bit|converted to RGB
64|EXIF orientation|applied once
65|animation|the first frame is used, with a warning
66|decompression bomb|refused from its header
67|formats other than PNG, JPEG, WebP|refused
68|truncated, empty or text file as an image|refused
69|image with zero pixels or one pixel|refused, or scaled with a warning
70|compressed text chunk that expands to 8 MB|refused or left unread
71|hostile metadata on replay|checked like every request; no path in it is opened
72|mask of another size|stretched to the image's size, with a warning
73|masks of all modes|luminance decides, transparent pixels are kept with a warning
74|mask all black, all white|black returns the image bit for bit with a warning; white is img2img
75|masked region smaller than a latent cell|\
its whole cell is repainted, or a warning says that it is not
76|unmasked pixels|unchanged bit for bit
77|only the masked region: empty mask, mask at the border|\
an empty mask gives a warning; the region stays inside the image
78|image from a URL or a command|refused; nothing is fetched
79|file name made of a hostile prompt|letters, digits and hyphens, inside the folder
80|backend that is not installed|refused, with the reason
81|NaN in latents, U-Net, decoder|an error that names the step and the layer, never a black image
82|out of memory|an error; the process continues
83|Ctrl-C|the run stops after the step and keeps the finished images
84|SIGTERM or SIGKILL in training|the new or the previous checkpoint is complete
85|full disk|an error; no temporary file is left, and an existing file is kept
86|output that exists|a new number in a folder; a named file is refused
87|many writers to one folder|every image gets its own name
88|read-only or missing folder, no HOME|refused, or works without it
89|broken pipe, closed standard output|ends quietly
90|threads that share a model|the images of a serial run, bit for bit
91|fork and spawn|work
92|the same request in another environment|the same bytes
93|resumed training|equals uninterrupted training, bit for bit
94|mistakes in settings and environment variables|refused by name
95|time zone, LANG=C, cp1252 and an emoji|no crash
96|old dependencies|lower bounds are declared and tested; `doctor` reports older ones
97|body that is too large, has no end, a wrong length, or is compressed|\
refused with 413, 408, 400 or 415; at most four bodies of the largest size are held in memory
98|client that sends half a request, or reads nothing; 1,000 idle event streams|\
a body must arrive and an answer be taken in time, and the others are served; a proxy times heads
99|many requests at once|\
every request gets its own image; a full queue answers 429 with `Retry-After`
100|client that disconnects, cancelled job|the job stops at the next step, and the next job starts
101|path outside the folder of the page or of results|404; requests cannot name files
102|request of a foreign web page, DNS rebinding|refused with 403; a body that is not JSON with 415
103|address that other machines can reach, without a token|the server does not start
104|missing or wrong token|401; a token is never logged, and never read from a URL
105|settings of A1111 that name files or grant permissions|load and change nothing
106|unexpected error in a request|\
500 with an id; the log has the id, the class and the lines of code; no traceback is sent
107|line breaks and terminal escapes in requests|escaped in the log; prompts are not logged
108|script in a prompt, in a path or in a name|\
sent as JSON with `nosniff` and a Content-Security-Policy without inline scripts
109|port in use, SIGTERM|refused; jobs and event streams end within five seconds
110|job that raises any exception|the job fails, and the next one runs
111|plug-in that fails|an error that names its package, only when the plug-in is requested
112|plug-in with the name of a built-in|the built-in keeps the name and is used
113|network at run time|no connection is opened
114|data set from a path|read as images; none of its code is run
115|Ray|not a dependency
116|list of backends, list of samplers, `doctor`|no plug-in is imported
117|package with a damaged list of entry points|other packages are unaffected
118|panic of a library: an error that is not an `Exception`|reported like any other error
119|tokenizer that lengthens prompts, or never ends|refused; only the words of a tokenizer are read
120|caption, table, recipe or settings: FIFO, device, folder, too large|refused without waiting
121|disk that fails while a file is read|reported as a read error, not as a write error
122|file without a size, such as those in /proc|refused
123|chain of headers in a tar file|refused, without a RecursionError
124|files of one key far apart in a tar file|not joined, with a warning
125|pickle whose tensors share a storage|refused above four times the size of the file
126|LoRA with an excessive weight or excessive numbers|refused by the LoRA's name
127|damaged cache of Hugging Face|treated as if it did not contain the model
128|output that is a dangling link|refused before anything is generated
129|several outputs, one of which exists|refused before the first is written
130|file extension of another format|refused
131|working folder that was deleted|refused before anything is generated
132|wrong value from a variable or a file|refused with its origin
133|numbers in other digits, with underscores|refused
134|device that cannot compute|refused
135|records that the caller modifies|are copies; the result is unchanged
136|request that is expensive to refuse: a repeated key, a million numbers|\
refused after one pass; a message quotes 80 characters
137|large request or form|parsed in a thread; others are answered meanwhile
138|A1111's text without colons, with open brackets or quotes|read in one pass
139|half a surrogate pair in a request or in the record of an image|\
the answer contains the same escape
140|form in another charset than UTF-8, damaged form|refused before it is decoded
141|number of thousands of digits, with two signs, underscores or other digits|\
refused, or 404 in a path
142|.npy file whose header is no header|refused
143|few numbers whose shapes multiply|refused before anything is computed
144|call or job that is cancelled while it waits|never begins
145|SIGTERM during an upload|503; no traceback in the log
146|SIGTERM at any moment of a command|exit code 143; temporary files and folders are removed
147|manifest of a batch that names another file|the image is generated again
148|range of a grid with NaN, infinity or hundreds of digits|refused
149|run record with wrong types, half a preview, rising noise levels|refused
150|folder to replace that holds a file of the user|refused; the file is kept
151|compiled graph under another graph's name|treated as missing
152|If-None-Match with weak tags, a list or `*`|304 if the client has the file
153|argument of another type, model without a name|refused by name
154|ldmref.toml that is a FIFO, a folder or a dangling link|refused instead of ignored
155|GGUF file that is truncated, or has wrong counts, sizes, types|refused before a tensor is read
156|quantised weight without a scale that fits, or for other kernels|refused with the reason
157|LoRA of another family|refused; the message lists the names or shapes that do not fit
158|file that announces more than it holds: counts above its bytes, repeated names|\
refused before these are read one by one
159|single file whose shapes or numbers of blocks no network has|refused before a table is made
160|number that no float holds, or so small that a quotient overflows|\
refused by name, or null in an answer
161|manifest or arrays of a trace of another type or shape|\
refused, or a row that is not judged or differs
162|vocabulary with a piece, a line or a number of pieces that crash a library|\
refused before it is handed over
163|wildcards, styles and globs that grow without bound|refused, or read in one pass
164|branch of thousands of branches, or of itself|refused
165|POST to an interface of its own with another type than JSON|415
"""

ROWS = {
    int(number): Row(fault, answer)
    for number, fault, answer in (line.split("|") for line in _TEXT.strip().splitlines())
}
