// One run of 1,000 items that take their time: `batch-makespan-main.ts <way> <seed> <when to begin, in ms since 1970>`.
import { setTimeout as sleep } from 'node:timers/promises'
import { drawLatencies, lowerBound } from './batch-latencies.ts'
import { openWay } from './batch-ways.ts'

export interface Makespan {
  readonly ms: number
  /** From how long the items took in this run: timers are late by a millisecond, which is no scheduler's doing. */
  readonly boundMs: number
}

const concurrency = 10
const [name = '', seed = '', beginsAt = ''] = process.argv.slice(2)
const { ms, hints } = drawLatencies(Number(seed), 1000)
const run = await openWay(name)
const taken: number[] = []
let running = 0

async function work(item: number): Promise<number> {
  const startedAt = performance.now()
  if (++running > concurrency) throw new Error(`${name} runs ${running} at a time`)
  await sleep(ms[item])
  running--
  taken.push(performance.now() - startedAt)
  return 1
}

await sleep(Math.max(0, Number(beginsAt) - Date.now()))
const startedAt = performance.now()
const done = await run({ items: Array.from(ms.keys()), work, concurrency, lengthOf: (item) => hints[item] ?? 0 })
const makespan = { ms: performance.now() - startedAt, boundMs: lowerBound(taken, concurrency) }
if (done !== ms.length || taken.length !== ms.length) throw new Error(`${name} did ${taken.length} items, and told of ${done}`)
process.send?.(makespan satisfies Makespan)
process.once('disconnect', () => process.exit())
