// Single streams: one of 200 MB, and one whose reader pauses. Flags: --only=name,name --rounds=5
import { start } from './programs.ts'
import type { Long, Paused } from './streaming-probe-main.ts'
import { median, printTable } from './tables.ts'

const undici = ['undici.request bytes', 'undici.request with eventsource-parser']
const ours = ['adapter.stream', 'adapter.stream text', 'adapter.stream with operators']
const others = ['openai client', 'LangChain ChatOpenAI.stream', 'AI SDK streamText']
const subjects = [...undici, ...ours, ...others]

async function probe<T>(what: 'long' | 'paused', subject: string): Promise<T> {
  await using server = await start('streaming-server-main.ts', [])
  const args = [what, subject, `http://127.0.0.1:${String(server.hello)}`]
  // V8 would let go of old bytecode in the middle of the count, and hide a leak of that size.
  await using child = await start('streaming-probe-main.ts', args, { flags: ['--expose-gc', '--no-flush-bytecode'] })
  return child.hello as T
}

const goal = (bound: string, met: boolean): string => `${bound}: ${met ? 'met' : 'missed'}`

/** Each seen once: what is told here does not swing by what the goals ask for. */
export async function long(only: readonly string[] | undefined): Promise<void> {
  const rows: string[][] = []
  for (const subject of subjects.filter((name) => only?.includes(name) ?? true)) {
    const { seconds, restMB, peakMB, heapMB } = await probe<Long>('long', subject)
    const [early, late] = heapMB
    const growth = early === undefined || late === undefined ? undefined : late - early
    rows.push([
      subject,
      seconds.toFixed(2),
      `${restMB.toFixed(0)} to ${peakMB.toFixed(0)}`,
      heapMB.map((mb) => mb.toFixed(1)).join(' to '),
      growth?.toFixed(2) ?? '',
      ours.includes(subject) && growth !== undefined ? goal('growth less than 1 MB', growth < 1) : ''
    ])
  }
  if (rows.length === 0) return
  console.log('\nOne stream of 200 MB\n')
  const heap = 'live heap, MB, behind 100,000 words and just before the end'
  printTable(['subject', 'seconds', 'RSS, MB, before and at its peak', heap, 'growth, MB', 'goal'], rows)
}

/** The kernel sizes its buffers by what it sees, and now and then takes half as much again: the median of `rounds` counts. */
export async function paused(only: readonly string[] | undefined, rounds: number): Promise<void> {
  const rows: string[][] = []
  for (const subject of subjects.filter((name) => only?.includes(name) ?? true)) {
    const seen: Paused[] = []
    for (let round = 0; round < rounds; round++) seen.push(await probe<Paused>('paused', subject))
    const taken = seen.map(({ takenMB }) => takenMB)
    const middle = median(taken)
    rows.push([
      subject,
      median(seen.map(({ readMB }) => readMB)).toFixed(2),
      `${middle.toFixed(2)} (${Math.min(...taken).toFixed(2)} to ${Math.max(...taken).toFixed(2)})`,
      ours.includes(subject) ? goal('at most 4.2 MB', middle <= 4.2) : ''
    ])
  }
  if (rows.length === 0) return
  console.log('\nA reader that pauses for two seconds behind its first piece: MB pulled\n')
  printTable(['subject', 'by the process', 'with what the kernel holds', 'goal'], rows)
}
