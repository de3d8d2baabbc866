// Prompts to token ids: the tokenizer of whole words that ldmref's own models have.
//
// An emoji is read as its name. Text is decomposed (NFD), stripped of accents and lower-cased; a word
// is a run of letters or digits, or one of the characters # * ! &. Everything else separates words.

const WORD = /[\p{L}\p{N}]+|[#*!&]/gu;
const SELECTOR = /\ufe0f/gu;
const SPACE = /^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]$/u; // str.isspace

/** A tokenizer from the model's `tokenizer.json`: {length, start, end, pad, unknown, words, emoji}. */
export class Tokenizer {
  constructor(data) {
    Object.assign(this, { length: data.length, start: data.start, end: data.end, pad: data.pad, unknown: data.unknown });
    this.ids = new Map(data.words.map((word, id) => [word, id]));
    this.emoji = new Map(data.emoji);
    this.longest = Math.max(1, ...data.emoji.map(([text]) => [...text].length));
  }

  /** Return {ids, words, unknown, leftOut}: ids has `length` numbers, the others are lists of words. */
  encode(prompt) {
    const words = this.split(prompt);
    const kept = words.slice(0, this.length - 2);
    const ids = new Array(this.length).fill(this.pad);
    [this.start, ...kept.map((word) => this.ids.get(word) ?? this.unknown), this.end].forEach((id, i) => {
      ids[i] = id;
    });
    const unknown = [...new Set(words.filter((word) => !this.ids.has(word)))];
    return { ids, words: kept, unknown, leftOut: words.slice(this.length - 2) };
  }

  /** Return the words of a prompt. */
  split(prompt) {
    const plain = this.nameEmoji(prompt).normalize("NFD").replace(/\p{M}/gu, "");
    // character by character: the lower case of a Greek sigma must not depend on its place
    return [...plain].map((character) => character.toLowerCase()).join("").match(WORD) ?? [];
  }

  /** Return a prompt with emoji replaced by their names; neighbours are joined by "and". */
  nameEmoji(prompt) {
    if (/^[\x00-\x7f]*$/.test(prompt)) return prompt;
    const text = [...prompt.replace(SELECTOR, "")];
    const pieces = [];
    let found = false;
    let afterEmoji = false;
    for (let i = 0; i < text.length; ) {
      const [name, size] = this.emojiAt(text, i);
      if (name === undefined) {
        pieces.push(text[i]);
        afterEmoji = afterEmoji && SPACE.test(text[i]);
        i += 1;
      } else {
        pieces.push(afterEmoji ? ` and ${name} ` : ` ${name} `);
        found = true;
        afterEmoji = true;
        i += size;
      }
    }
    return found ? pieces.join("") : prompt;
  }

  emojiAt(text, i) {
    for (let size = Math.min(this.longest, text.length - i); size > 0; size -= 1) {
      const name = this.emoji.get(text.slice(i, i + size).join(""));
      if (name !== undefined) return [name, size];
    }
    return [undefined, 0];
  }
}
