// @ts-check
// The word of a prompt whose map tells most: the head of its first noun phrase.

const BREAKS = new Set(
  ("a an the and or but of in on at to by from with without under over above below beside behind between near next"
    + " into onto through left right top is are that which its his her their this these").split(" "),
);
const COUNTS = new Set("one two three four five six seven eight nine ten pair couple".split(" "));
const PICTURES = new Set("photo photograph picture image painting drawing portrait sketch render view style".split(" "));

/**
 * Return the place of the most telling word. Articles, prepositions and conjunctions end a phrase,
 * and the last word of an English noun phrase is its noun: "a red cat on a mat" has "cat". Words for
 * the picture itself ("a photo of ...") and forms in -ing are passed over if there is another.
 */
export function findTelling(words) {
  const plain = words.map((word) => word.toLowerCase().replace(/[^\p{L}\p{N}]/gu, ""));
  const isContent = (word) => word !== "" && !BREAKS.has(word) && !COUNTS.has(word) && !/^\d+$/.test(word);
  const isNoun = (word) => isContent(word) && !PICTURES.has(word) && !/...ing$/.test(word);
  for (const wanted of [isNoun, isContent]) {
    const first = plain.findIndex(wanted);
    if (first < 0) continue;
    let last = first;
    while (last + 1 < plain.length && wanted(plain[last + 1]) && !/[,;.]$/.test(words[last])) last += 1;
    return last;
  }
  return 0;
}
