// What it costs to have a counter, in a fresh process: `tokens-load-main.ts <subject> <first count or ready>`, with --expose-gc.
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { counter, ourTokenizer } from './tokens-counters.ts'

export interface Loaded {
  /** Until there is something that could count. */
  readonly importMs: number
  readonly importMB: number
  /** From nothing until the first text is counted, the import with it. */
  readonly ms: number
  readonly rssMB: number
  readonly heapMB: number
  /** The longest that nothing else could run meanwhile, the import left out. */
  readonly blockMs: number
}

const [name = '', way = ''] = process.argv.slice(2)
const megabytes = ({ rss }: NodeJS.MemoryUsage = process.memoryUsage()): number => rss / 1e6

function live(): number {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  return (heapUsed + external) / 1e6
}

const heapBefore = live()
const before = megabytes()
const startedAt = performance.now()
const count = way === 'ready' ? undefined : await counter(name)
const tokenizer = way === 'ready' ? await ourTokenizer() : undefined
const importMs = performance.now() - startedAt
const importMB = megabytes() - before

const delay = monitorEventLoopDelay({ resolution: 1 })
delay.enable()
// It tells the time between two of its ticks, so there must be one before and one after what is watched.
await sleep(10)
const countsAt = performance.now()
await tokenizer?.ready()
const tokens = (tokenizer?.count ?? count)?.('How many tokens are these?')
const countedMs = performance.now() - countsAt
const rssMB = megabytes() - before
await sleep(10)
delay.disable()
if (tokens !== 6) throw new Error(`${name} counts ${tokens} tokens, not 6`)
const heapMB = live() - heapBefore
process.send?.({ importMs, importMB, ms: importMs + countedMs, rssMB, heapMB, blockMs: delay.max / 1e6 } satisfies Loaded)
process.once('disconnect', () => process.exit())
