// How long a batch takes over the least it could, when a few items take very long. Flags: --rounds=5 (seeds) --only=name,name
import type { Makespan } from './batch-makespan-main.ts'
import { start } from './programs.ts'
import { median, printTable, quantile } from './tables.ts'

const [loops, windows, hinted] = ['bare loops', 'fixed windows', 'batch longest first']
const subjects = [
  loops,
  windows,
  'bare loops again',
  'batch',
  hinted,
  'batch in input order',
  'p-limit',
  'p-queue',
  'LangChain .batch'
]
/** Every process has loaded what it needs by then. */
const startMs = 3000

/** All at the same time, for they do nothing but wait: what drifts on the machine drifts for all. */
export async function makespans(only: readonly string[] | undefined, seeds: number): Promise<void> {
  const chosen = subjects.filter((name) => name === loops || name === windows || (only?.includes(name) ?? true))
  if (chosen.length === 2 && only !== undefined) return
  const taken = new Map<string, Makespan[]>(chosen.map((name) => [name, []]))
  for (let seed = 1; seed <= seeds; seed++) {
    await using stack = new AsyncDisposableStack()
    const beginsAt = Date.now() + startMs
    await Promise.all(
      chosen.map(async (name) => {
        const child = stack.use(await start('batch-makespan-main.ts', [name, `${seed}`, `${beginsAt}`]))
        taken.get(name)?.push(child.hello as Makespan)
      })
    )
  }
  console.log(`\n1,000 items, log-normal (median 20 ms, sigma 1.2), 10 at a time, of ${seeds} seeds\n`)
  const overBase = (samples: readonly Makespan[], base: string): readonly number[] =>
    samples.map(({ ms }, index) => ms / (taken.get(base)?.[index]?.ms ?? Number.NaN))
  printTable(
    ['subject', 'ms', 'times the lower bound', `times ${loops}`, `times ${windows}`, 'goals'],
    [...taken].map(([name, samples]) => {
      const overBound = samples.map(({ ms, boundMs }) => ms / boundMs)
      const [overLoops, overWindows] = [overBase(samples, loops), overBase(samples, windows)]
      const goals = [
        ...(name === 'batch' ? [told(loops, overLoops, 1.01), told(windows, overWindows, 0.3)] : []),
        ...(name === hinted ? [told('the lower bound', overBound, 1.05)] : [])
      ]
      const ms = median(samples.map((sample) => sample.ms)).toFixed(0)
      return [name, ms, ...[overBound, overLoops, overWindows].map(spread), goals.join('; ')]
    })
  )
}

const spread = (values: readonly number[]): string =>
  `${median(values).toFixed(3)} (${quantile(values, 0).toFixed(3)} to ${quantile(values, 1).toFixed(3)})`

function told(base: string, ratios: readonly number[], atMost: number): string {
  return `at most ${atMost} of ${base}: ${median(ratios) <= atMost ? 'met' : 'missed'}`
}
