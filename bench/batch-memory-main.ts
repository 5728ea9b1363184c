// What many lazy items take of memory: `batch-memory-main.ts <way> <items>`, started with --expose-gc.
import { setTimeout as sleep } from 'node:timers/promises'
import { openWay } from './batch-ways.ts'

export interface Memory {
  /** Live heap and buffers when nine of ten items are through, over what it was before. */
  readonly liveMB: number
  /** Resident, at its most until then. */
  readonly peakMB: number
  readonly peakBeforeMB: number
}

const [name = '', items = ''] = process.argv.slice(2)
const count = Number(items)
const run = await openWay(name)

async function* generate(upTo: number): AsyncGenerator<number> {
  for (let item = 0; item < upTo; item++) yield item
}

function live(): number {
  globalThis.gc?.()
  const { heapUsed, external } = process.memoryUsage()
  return (heapUsed + external) / 1e6
}

const peak = (): number => process.resourceUsage().maxRSS / 1e3
const lengthOf = (item: number): number => item
await run({ items: generate(10_000), work: async (item) => item, concurrency: 10, lengthOf })
await sleep(50)
const [liveBefore, peakBeforeMB] = [live(), peak()]
let memory: Memory | undefined
let calls = 0
async function work(item: number): Promise<number> {
  if (++calls === count * 0.9) {
    const peakMB = peak()
    memory = { liveMB: live() - liveBefore, peakMB, peakBeforeMB }
  }
  return item
}
await run({ items: generate(count), work, concurrency: 10, lengthOf })
process.send?.(memory)
process.once('disconnect', () => process.exit())
