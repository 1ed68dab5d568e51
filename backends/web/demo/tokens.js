// Words to numbers as BERT has them: lower case, no accents, punctuation apart, the longest pieces of the vocabulary.

/** @param text Of the vocabulary file: a piece per line. */
export function tokenizer(text, lowercase = true) {
  const ids = new Map(text.replace(/\r?\n$/, "").split(/\r?\n/).map((piece, id) => [piece, id]));
  const [unknown, first, last] = ["[UNK]", "[CLS]", "[SEP]"].map((name) => ids.get(name) ?? 0);
  return {
    pad: ids.get("[PAD]") ?? 0,
    encode(sentence, most = 512) {
      const words = split(lowercase ? sentence.toLowerCase().normalize("NFD").replace(/\p{Mn}/gu, "") : sentence);
      const found = words.flatMap((word) => pieces(word, ids) ?? [unknown]);
      return [first, ...found.slice(0, most - 2), last];
    },
  };
}

function split(text) {
  return text.match(/[\p{P}\p{S}\p{Script=Han}]|[^\s\p{P}\p{S}\p{Script=Han}]+/gu) ?? [];
}

function pieces(word, ids) {
  const found = [];
  for (let from = 0; from < word.length; ) {
    let to = word.length;
    while (to > from && !ids.has((from ? "##" : "") + word.slice(from, to))) to--;
    if (to === from) return undefined;
    found.push(ids.get((from ? "##" : "") + word.slice(from, to)));
    from = to;
  }
  return found;
}
