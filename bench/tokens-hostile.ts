// How long hostile texts block a process, and how that grows with them.

import { printTable } from './tables.ts'
import { ours } from './tokens-counters.ts'
import { byTwo, listen } from './tokens-limited.ts'
import { digits, type Flags } from './tokens-race.ts'
import { type Kind, kinds } from './tokens-runs.ts'

interface Report {
  readonly size: number
  readonly ms: number
  readonly tokens: number
}

const sizes = [50_000, 100_000, 1_000_000, 10_000_000]
const limitMs = 5000
const rivals = ['tiktoken', 'gpt-tokenizer', 'ai-tokenizer', 'js-tiktoken']
/** Where the rivals are shown: all kinds would take minutes and tell the same. */
const shown: ReadonlySet<Kind> = new Set(['one letter', 'spaces', 'random Han'])
const goals = { at100KB: 100, growth: 2.5, at10MB: 3000 }

export async function hostile({ only, texts }: Flags): Promise<void> {
  const wanted = (Object.keys(kinds) as Kind[]).filter((kind) => kind.includes(texts))
  const rows: string[][] = []
  for (const kind of wanted) if (only?.includes(ours) ?? true) rows.push(toldOfOurs(kind, await heard(ours, kind, sizes)))
  const others = rivals.filter((name) => only?.includes(name) ?? true)
  const pairs = wanted.filter((kind) => shown.has(kind)).flatMap((kind) => others.map((name) => ({ kind, name })))
  const told = pairs.map(
    ({ kind, name }) =>
      async () =>
        toldOf(kind, name, await heard(name, kind, sizes.slice(0, 3)))
  )
  rows.push(...(await byTwo(told)))
  if (rows.length === 0) return
  console.log('\nHostile texts: milliseconds, and how many times as long twice the text takes.')
  console.log(`What would take longer than ${limitMs} ms, as the times grow, is left out.\n`)
  const head = ['text', 'subject', '50 KB', '100 KB', '1 MB', '10 MB', 'growth to 100 KB', 'growth to 1 MB', 'goals']
  printTable(head, rows)
}

interface Measured {
  readonly reports: readonly Report[]
  readonly late: boolean
}

async function heard(name: string, kind: Kind, upTo: readonly number[]): Promise<Measured> {
  const { said, late } = await listen('tokens-hostile-main.ts', [name, kind, String(limitMs), upTo.join(',')], limitMs)
  return { reports: said.filter((report): report is Report => typeof report === 'object'), late }
}

function toldOf(kind: Kind, name: string, { reports, late }: Measured): string[] {
  const cells = sizes.map((size, index) => {
    const report = reports[index]
    if (report !== undefined) return report.ms < 10 ? report.ms.toFixed(1) : report.ms.toFixed(0)
    return late && index === reports.length ? `> ${limitMs}` : ''
  })
  return [kind, name, ...cells, ...growths(reports).map((growth) => (Number.isNaN(growth) ? '' : digits(growth))), '']
}

/** How many times as long twice as much takes: from 50 KB to 100 KB, and from there to 1 MB. */
function growths([half, whole, million]: readonly Report[]): readonly number[] {
  const between = (from: Report | undefined, to: Report | undefined): number =>
    from === undefined || to === undefined ? Number.NaN : (to.ms / from.ms) ** (1 / Math.log2(to.size / from.size))
  return [between(half, whole), between(whole, million)]
}

function toldOfOurs(kind: Kind, measured: Measured): string[] {
  const [, at100KB, , at10MB] = measured.reports
  const grown = Math.max(...growths(measured.reports))
  const told = [
    `100 KB in ${goals.at100KB} ms: ${(at100KB?.ms ?? Number.NaN) <= goals.at100KB ? 'met' : 'missed'}`,
    `growth at most ${goals.growth}: ${grown <= goals.growth ? 'met' : 'missed'}`,
    `10 MB in ${goals.at10MB} ms: ${(at10MB?.ms ?? Number.NaN) <= goals.at10MB ? 'met' : 'missed'}`
  ]
  return [...toldOf(kind, ours, measured).slice(0, -1), told.every((goal) => goal.endsWith('met')) ? 'met' : told.join('; ')]
}
