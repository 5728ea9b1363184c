// How fast texts are counted, and whether everybody counts the same.

import { median, printTable } from './tables.ts'
import { type Language, languages } from './tokens-corpora.ts'
import { counters, ours } from './tokens-counters.ts'
import { digits, type Flags, judge, race, spread, type Taken, timesAsFast, usEach } from './tokens-race.ts'

interface Texts {
  readonly language: Language
  readonly bytes: number
  /** How many of them are taken in turn; 0 for as many as there are. */
  readonly texts: number
}

const base = 'tiktoken'
/** Takes four seconds for a megabyte of Chinese and Japanese: shown by shorter texts. */
const slowest = 'js-tiktoken'
const fastest = 'ai-tokenizer'
const all: readonly Texts[] = [
  ...languages.flatMap((language) => [100, 4000, 1_000_000].map((bytes) => ({ language, bytes, texts: 0 }))),
  // A counter that remembers pieces has seen all of these after a moment.
  ...[100, 4000].map((bytes): Texts => ({ language: 'English', bytes, texts: 64 }))
]

const titleOf = ({ language, bytes, texts }: Texts): string =>
  `${language}, ${bytes === 100 ? '100 B' : bytes === 4000 ? '4 KB' : '1 MB'}, ${texts === 0 ? 'all different' : `${texts} in turn`}`

export async function counting(flags: Flags): Promise<void> {
  // What a ratio is divided by takes part in any case.
  const names = Object.keys(counters).filter((name) => name === base || (flags.only?.includes(name) ?? true))
  if (flags.only !== undefined && names.length === 1 && !flags.only.includes(base)) return
  for (const texts of all.filter((each) => titleOf(each).includes(flags.texts))) {
    const { language, bytes } = texts
    const tooLong = bytes === 1_000_000 && language === 'Chinese and Japanese'
    const subjects = names.filter((name) => !(tooLong && name === slowest))
    const taken = await race('tokens-main.ts', subjects, `${language}/${bytes}/${texts.texts}`, flags)
    console.log(`\nCount of ${titleOf(texts)}`)
    check(titleOf(texts), taken)
    const [slow, quick] = [taken.get(base), taken.get(fastest)]
    console.log()
    printTable(
      ['subject', 'us a text', 'MB/s', `times as fast as ${base}`, ...(quick === undefined ? [] : [`as ${fastest}`]), 'goals'],
      [...taken].map(([name, own]) => {
        const us = median(own.samples.map(usEach))
        const ratios = [slow, quick].filter((other) => other !== undefined).map((other) => timesAsFast(own, other))
        const goals = name === ours ? goalsOf(texts, ratios) : []
        return [name, digits(us), digits(bytes / us), ...ratios.map(spread), goals.join('; ')]
      })
    )
  }
}

function goalsOf({ language, bytes }: Texts, [toBase = [], toFastest]: readonly (readonly number[])[]): readonly string[] {
  if (bytes === 1_000_000) return [judge(`times ${base}`, toBase, { atLeast: language === 'Chinese and Japanese' ? 3.5 : 5 })]
  return toFastest === undefined ? [] : [judge(`times ${fastest}`, toFastest, { atLeast: 0.95 })]
}

/** Whoever does not count what tiktoken counts makes the run fail. */
function check(title: string, taken: ReadonlyMap<string, Taken>): void {
  const expected = Number(taken.get(base)?.hellos[0])
  const others = [...taken].filter(([, { hellos }]) => hellos.some((tokens) => tokens !== expected))
  if (others.length === 0) return console.log(`All count the same in the first megabyte: ${expected} tokens.`)
  process.exitCode = 1
  for (const [name, { hellos }] of others)
    console.log(`${name} counts ${hellos.join(', ')} tokens of ${title}, and ${base} ${expected}`)
}
