// Live heap before and after many calls: `heap-main.ts <subject> <origin> <calls>`, started with --expose-gc.
import { setTimeout as sleep } from 'node:timers/promises'
import { openSubject } from './subjects.ts'
import { answerText } from './traffic.ts'

const [name = '', origin = '', calls = ''] = process.argv.slice(2)
const call = await openSubject(name, origin)
const collectGarbage = globalThis.gc
if (collectGarbage === undefined) throw new Error('heap-main.ts needs --expose-gc')

async function make(count: number): Promise<void> {
  let left = count
  async function repeat(): Promise<void> {
    while (left-- > 0) if ((await call()) !== answerText) throw new Error(`${name}: a wrong answer`)
  }
  await Promise.all(Array.from({ length: 50 }, repeat))
}

/** Heap and buffers that something still holds on to, in bytes. */
async function live(): Promise<number> {
  // Finalizers run between the collections, and what they let go of is found by the next one.
  for (let pass = 0; pass < 4; pass++) {
    collectGarbage?.()
    await sleep(50)
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

await make(30_000)
const before = await live()
await make(Number(calls))
process.send?.({ before, after: await live() })
process.once('disconnect', () => process.exit())
