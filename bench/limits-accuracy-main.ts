// How much is let through while many ask all the time: `limits-accuracy-main.ts <subject> <namespace> <url of a Redis or none>`.
// It says when it is ready, and asks for as long as it is told.
import { type Leave, openLeave } from './limits-accuracy-subjects.ts'
import type { Sample, Turn } from './programs.ts'

const [name = '', namespace = '', url = ''] = process.argv.slice(2)
const leave: Leave = await openLeave(name, url, namespace)

/** What is let through later than that is not counted. */
async function take({ concurrency, ms }: Turn): Promise<Pick<Sample, 'units'>> {
  const endsAt = performance.now() + ms
  let units = 0
  async function ask(): Promise<void> {
    for (;;) {
      const used = await leave()
      if (performance.now() > endsAt) return
      units += used
    }
  }
  await Promise.all(Array.from({ length: concurrency }, ask))
  return { units }
}

process.on('message', (turn) => void take(turn as Turn).then((sample) => process.send?.(sample)))
process.once('disconnect', () => process.exit())
process.send?.('ready')
