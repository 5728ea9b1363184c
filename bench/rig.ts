// Compares subjects with their bases. Each runs in a process of its own, against one server in another; a subject's turns and
// its base's are short and follow each other, so that what drifts on the machine drifts for both sides of a ratio.
import { parseArgs } from 'node:util'
import { type Program, type Sample, start } from './programs.ts'
import { median, printTable, quantile, quartiles } from './tables.ts'

/** What is compared of two samples: divided, or subtracted. */
const measures = {
  cpu: { head: 'CPU', of: ({ cpuUs, units }: Sample) => cpuUs / units, unit: 'us each', by: 'ratio' },
  added: { head: 'CPU added', of: ({ cpuUs, units }: Sample) => cpuUs / units, unit: 'us each', by: 'difference' },
  rate: { head: 'rate', of: ({ units, seconds }: Sample) => units / seconds, unit: 'a second', by: 'ratio' },
  p99: { head: 'p99', of: ({ p99Ms }: Sample) => p99Ms, unit: 'ms', by: 'ratio' },
  first: { head: 'first text', of: ({ firstMs }: Sample) => firstMs, unit: 'ms', by: 'ratio' }
} as const
export type Measure = keyof typeof measures

export interface Goal {
  readonly measure: Measure
  readonly atMost?: number
  readonly atLeast?: number
  /** The concurrencies at which it stands. @default those of the comparison */
  readonly at?: readonly number[]
}

export interface Row {
  readonly subject: string
  /** What it is divided by. */
  readonly base: string
  readonly goals?: readonly Goal[]
}

export interface Comparison {
  readonly title: string
  /** The program of the children: it is given a subject's name and `at`. */
  readonly program: string
  /** Where they work. @default the origin of a model server that runs meanwhile */
  readonly at?: string
  /** How long the server waits before each answer. */
  readonly serverDelayMs?: number
  readonly rows: readonly Row[]
  readonly concurrencies: readonly number[]
  /** The concurrencies at which the goals stand. @default all */
  readonly goalsAt?: readonly number[]
  readonly measures: readonly Measure[]
  /** How long a turn lasts where no flag says so. */
  readonly ms: number
  /** How many at a time warm up both sides. @default 50 */
  readonly warmAt?: number
}

interface Pair {
  readonly subject: Sample
  readonly base: Sample
}

const flags = {
  ms: { type: 'string' },
  rounds: { type: 'string', default: '5' },
  processes: { type: 'string', default: '3' },
  concurrency: { type: 'string' },
  only: { type: 'string' },
  parts: { type: 'string' }
} as const

/** What is measured, and how often. */
export interface Flags {
  readonly ms?: number | undefined
  /** Pairs of turns per ratio: so many in each of `processes` new processes. */
  readonly rounds: number
  readonly processes: number
  readonly concurrencies?: readonly number[] | undefined
  /** Subjects. */
  readonly only?: readonly string[] | undefined
  /** For a bench that has several parts to read: here they are only known. */
  readonly parts?: readonly string[] | undefined
}

export function readFlags(): Flags {
  const { values } = parseArgs({ options: flags })
  const ms = values.ms === undefined ? undefined : Number(values.ms)
  const [rounds, processes] = [Number(values.rounds), Number(values.processes)]
  if (!((ms ?? 1) >= 1 && rounds >= 1 && processes >= 1)) {
    throw new TypeError('--ms, --rounds and --processes take numbers from 1 up')
  }
  return {
    ms,
    rounds,
    processes,
    concurrencies: values.concurrency?.split(',').map(Number),
    only: values.only?.split(','),
    parts: values.parts?.split(',')
  }
}

/** Measures every row at every concurrency and prints a table for each; what the flags leave out is left out. */
export async function compare(comparison: Comparison): Promise<void> {
  const { ms = comparison.ms, rounds, processes, only, concurrencies: wanted } = readFlags()
  const rows = comparison.rows.filter(({ subject }) => only?.includes(subject) ?? true)
  const concurrencies = comparison.concurrencies.filter((concurrency) => wanted?.includes(concurrency) ?? true)
  if (rows.length === 0 || concurrencies.length === 0) {
    const known = comparison.rows.map(({ subject }) => subject).join(', ')
    console.log(`\n${comparison.title}: left out by the flags; at ${comparison.concurrencies.join(', ')} a time, of ${known}`)
    return
  }

  await using server = comparison.at === undefined ? await start('server-main.ts', [String(comparison.serverDelayMs ?? 0)]) : null
  const at = comparison.at ?? `http://127.0.0.1:${String(server?.hello)}`
  const pairs = new Map(concurrencies.map((concurrency) => [concurrency, rows.map((): Pair[] => [])]))
  // New processes each time: two that run the same code may differ for as long as they live.
  for (let fresh = 0; fresh < processes; fresh++) {
    for (const [index, row] of rows.entries()) {
      await using subject = await start(comparison.program, [row.subject, at])
      await using base = await start(comparison.program, [row.base, at])
      await Promise.all([subject, base].map((program) => program.ask({ concurrency: comparison.warmAt ?? 50, ms: 1000 })))
      for (const concurrency of concurrencies) {
        pairs.get(concurrency)?.[index]?.push(...(await alternate(subject, base, { concurrency, ms, rounds })))
      }
    }
  }
  for (const [concurrency, taken] of pairs) {
    console.log(`\n${comparison.title}, ${concurrency} at a time\n`)
    const judged = rows.map(({ goals = [], ...row }) => ({
      ...row,
      goals: goals.filter((goal) => (goal.at ?? comparison.goalsAt)?.includes(concurrency) ?? true)
    }))
    print(judged, taken, comparison.measures)
  }
}

async function alternate(
  subject: Program,
  base: Program,
  { rounds, ...turn }: { readonly concurrency: number; readonly ms: number; readonly rounds: number }
): Promise<Pair[]> {
  const pairs: Pair[] = []
  // Round 0 opens the sockets.
  for (let round = 0; round <= rounds; round++) {
    const first = await (round % 2 === 0 ? subject : base).ask(turn)
    const second = await (round % 2 === 0 ? base : subject).ask(turn)
    if (round > 0) pairs.push(round % 2 === 0 ? { subject: first, base: second } : { subject: second, base: first })
  }
  return pairs
}

/** Each ratio, or difference, is the median over the pairs, with the quartiles that tell what it is worth. */
function print(rows: readonly Row[], taken: readonly (readonly Pair[])[], shown: readonly Measure[]): void {
  printTable(
    ['subject', 'base', ...shown.flatMap(headsOf), 'goals'],
    rows.map(({ subject, base, goals = [] }, index) => {
      const pairs = taken[index] ?? []
      const ratiosOf = (name: Measure): number[] => pairs.map((pair) => comparedBy(name, pair))
      const columns = shown.flatMap((name) => {
        const [low, middle, high] = quartiles(ratiosOf(name), 2)
        if (measures[name].by === 'difference') return [`${middle} (${low} to ${high})`]
        const own = median(pairs.map((pair) => valueOf(name, pair.subject)))
        return [`${middle} (${low} to ${high})`, `${Number(own.toPrecision(3))}`]
      })
      const told = goals.map((goal) => judge(goal, ratiosOf(goal.measure)))
      return [subject, base, ...columns, told.join('; ')]
    })
  )
}

function headsOf(name: Measure): readonly string[] {
  const { head, unit, by } = measures[name]
  return by === 'difference' ? [`${head}, ${unit}`] : [`${head}, times the base`, unit]
}

const valueOf = (name: Measure, sample: Sample): number => measures[name].of(sample)

function comparedBy(name: Measure, { subject, base }: Pair): number {
  const [own, its] = [valueOf(name, subject), valueOf(name, base)]
  return measures[name].by === 'difference' ? own - its : own / its
}

/** Judged by the median; a quartile on the other side of the bound is told, for another run might say the opposite. */
function judge({ measure, atMost = Number.POSITIVE_INFINITY, atLeast = 0 }: Goal, ratios: readonly number[]): string {
  const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => {
    const ratio = quantile(ratios, share)
    return ratio >= atLeast && ratio <= atMost
  })
  const bound = atLeast > 0 ? `at least ${atLeast}` : `at most ${atMost}`
  return `${measures[measure].head} ${bound}: ${middle ? 'met' : 'missed'}${low === high ? '' : ' within the noise'}`
}
