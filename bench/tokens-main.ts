// One way to count texts, in a process of its own: `tokens-main.ts <subject> <language/bytes of a text/texts, 0 for all>`. The
// first thing it says is what it counted, in the first megabyte of texts.
import { corpus, cuts, type Language } from './tokens-corpora.ts'
import { counter } from './tokens-counters.ts'
import { takeTurns } from './turns.ts'

const [name = '', what = ''] = process.argv.slice(2)
const [language = '', size = '', limit = ''] = what.split('/')
const texts = select(cuts(corpus(language as Language), Number(size), Math.min(Number(size), 50_000)), Number(limit))
const count = await counter(name)

/** Even the shortest texts are counted for some time before the clock is looked at. */
const batch = Math.max(1, Math.floor(32_768 / Number(size)))
let at = 0

takeTurns(
  async () => {
    for (let counted = 0; counted < batch; counted++) {
      at = (at + 1) % texts.length
      if (!(count(texts[at] as string) > 0)) throw new Error(`${name} counts nothing`)
    }
    return { units: batch }
  },
  texts.slice(0, 1_000_000 / Number(size)).reduce((tokens, text) => tokens + count(text), 0)
)

/** So many of them, from all over the text; all for 0. */
function select(all: readonly string[], wanted: number): readonly string[] {
  if (wanted === 0) return all
  return Array.from({ length: wanted }, (_, index) => all[Math.floor((index * all.length) / wanted)] as string)
}
