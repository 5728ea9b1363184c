import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'

/** What a test of ours can leave behind; the rest comes and goes with the test runner. */
const watched: ReadonlySet<string> = new Set([
  'TCPSocketWrap',
  'TCPServerWrap',
  'TLSWrap',
  'PipeWrap',
  'Timeout',
  'ProcessWrap',
  'FSEventWrap',
  'Worker'
])

export interface LeakProbe {
  /**
   * Waits until nothing is left of what was opened since the probe was made.
   *
   * @throws {Error} with what is left and how many
   */
  check(): Promise<void>
}

/**
 * Counts the sockets, servers and processes that keep this process alive, to be compared later. Of timers none may be left
 * at all, older ones included: the test runner's own come and go, so a count of them says nothing. What is unref'd is not
 * seen.
 *
 * @example
 * const probe = probeLeaks()
 * await probe.check()
 */
export function probeLeaks(
  options: {
    /** How long closing may take. @default 2000 */
    readonly settleMs?: number | undefined
  } = {}
): LeakProbe {
  const { settleMs = 2000 } = options
  const before = countResources().set('Timeout', 0)
  return {
    async check() {
      const until = performance.now() + settleMs
      for (;;) {
        const left = [...countResources()]
          .map(([type, count]) => ({ type, count: count - (before.get(type) ?? 0) }))
          .filter(({ count }) => count > 0)
        if (left.length === 0) return
        if (performance.now() > until) {
          throw new Error(`left behind: ${left.map(({ type, count }) => `${count} ${type}`).join(', ')}`)
        }
        await delay(10)
      }
    }
  }
}

function countResources(): Map<string, number> {
  const counts = new Map<string, number>()
  for (const type of process.getActiveResourcesInfo()) {
    if (watched.has(type)) counts.set(type, (counts.get(type) ?? 0) + 1)
  }
  return counts
}

/**
 * Bytes of the heap in use after a thorough collection.
 *
 * @throws {Error} without `node --expose-gc`, which the repository's vitest.config.ts gives
 *
 * @example
 * const before = await heapAfterGc()
 */
export async function heapAfterGc(): Promise<number> {
  if (globalThis.gc === undefined) throw new Error('start node with --expose-gc')
  // Finalizers run between collections and may free more.
  for (let round = 0; round < 4; round++) {
    globalThis.gc()
    await tick()
  }
  return process.memoryUsage().heapUsed
}
