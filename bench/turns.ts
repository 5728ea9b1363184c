// The child's side of the rig: does what it is told, for as long as it is told, and reports what that took.
import type { Sample, Turn } from './programs.ts'
import { median, quantile } from './tables.ts'

/** Does one call and tells how many units it was worth, and when its first text came. */
export type Work = () => Promise<{ readonly units: number; readonly firstMs?: number | undefined }>

/** Says `hello` first: it is ready. */
export function takeTurns(work: Work, hello: unknown = 'ready'): void {
  process.on('message', (turn) => void take(work, turn as Turn).then((sample) => process.send?.(sample)))
  process.once('disconnect', () => process.exit())
  process.send?.(hello)
}

async function take(work: Work, { concurrency, ms }: Turn): Promise<Sample> {
  const firsts: number[] = []
  const times: number[] = []
  let units = 0
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  async function repeat(): Promise<void> {
    let calledAt = performance.now()
    while (calledAt - startedAt < ms) {
      const done = await work()
      units += done.units
      if (done.firstMs !== undefined) firsts.push(done.firstMs)
      const now = performance.now()
      times.push(now - calledAt)
      calledAt = now
    }
  }
  await Promise.all(Array.from({ length: concurrency }, repeat))
  const seconds = (performance.now() - startedAt) / 1000
  const { user, system } = process.cpuUsage(cpu)
  const peakMB = process.resourceUsage().maxRSS / 1e3
  return { units, cpuUs: user + system, seconds, p99Ms: quantile(times, 0.99), firstMs: median(firsts), peakMB }
}
