// What a running total over the deltas of a stream costs, and how far it is off.

import { printTable } from './tables.ts'
import { ours } from './tokens-counters.ts'
import { type Flags, judge, race, spread, usEach } from './tokens-race.ts'
import type { Off } from './tokens-stream-main.ts'

const push = 'counter().push'
const goalUs = 0.3
const few = [push, 'each delta by itself over tiktoken', 'up to the last space over gpt-tokenizer']
const all = [
  ...few,
  'up to the last space over tiktoken',
  `each delta by itself over ${ours}`,
  `recount over ${ours}`,
  'recount over gpt-tokenizer',
  'recount over tiktoken'
]

const streams = [
  { title: 'English, one token a delta', what: 'English/token', subjects: few },
  { title: 'English, 1 to 6 tokens a delta', what: 'English/tokens', subjects: all },
  { title: 'English, cut anywhere, 1 to 12 characters a delta', what: 'English/characters', subjects: few },
  { title: 'code, 1 to 6 tokens a delta', what: 'code/tokens', subjects: few },
  { title: 'Chinese and Japanese, one token a delta', what: 'Chinese and Japanese/token', subjects: few },
  { title: 'Chinese and Japanese, 1 to 6 tokens a delta', what: 'Chinese and Japanese/tokens', subjects: few }
]

export async function streaming(flags: Flags): Promise<void> {
  for (const { title, what, subjects } of streams.filter((stream) => stream.what.includes(flags.texts))) {
    const chosen = subjects.filter(
      (name) => flags.only?.some((only) => name.includes(only) || (only === ours && name === push)) ?? true
    )
    if (chosen.length === 0) continue
    const taken = await race('tokens-stream-main.ts', chosen, what, flags)
    console.log(`\nA running total of ${title}, 2,000 deltas\n`)
    printTable(
      ['way', 'us a delta', 'exact at the end', 'off at the end', 'most off on the way', 'goals'],
      [...taken].map(([name, { samples, hellos }]) => {
        const { exact, streams: of, endPercent, onTheWay } = hellos[0] as Off
        if (name === push && exact < of) {
          console.error(`${name} is not exact at the end of ${of - exact} of ${of} streams of ${title}`)
          process.exitCode = 1
        }
        const us = samples.map(usEach)
        const goals = name === push ? `${judge('us', us, { atMost: goalUs })}; exact: ${exact === of ? 'met' : 'missed'}` : ''
        return [name, spread(us), `${exact} of ${of}`, `${endPercent.toFixed(2)} %`, `${onTheWay} tokens`, goals]
      })
    )
  }
}
