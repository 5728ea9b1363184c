// How soon the provider's server sees that nobody reads on. Flags: --only=name,name --rounds=5
import { start } from './programs.ts'
import { median, printTable } from './tables.ts'

const ways = ['break', 'token limit', 'return()', 'abort', 'deadline']
const ours = ['adapter.stream', 'adapter.stream with operators']
const subjects = [...ours, 'openai client', 'AI SDK streamText']
const goalMs = 20

/** Each way `rounds` times two. */
export async function stop(only: readonly string[] | undefined, rounds: number): Promise<void> {
  const rows: string[][] = []
  for (const subject of subjects.filter((name) => only?.includes(name) ?? true)) {
    const cells: string[] = []
    let longest = 0
    for (const way of ways) {
      await using server = await start('streaming-server-main.ts', [])
      const origin = `http://127.0.0.1:${String(server.hello)}`
      await using child = await start('streaming-stop-main.ts', [subject, way, origin, `${rounds * 2}`])
      const taken = child.hello as readonly (number | null)[] | null
      if (taken === null) {
        cells.push('has none')
        continue
      }
      const seen = taken.filter((ms) => ms !== null)
      longest = Math.max(longest, ...(seen.length === taken.length ? seen : [Number.POSITIVE_INFINITY]))
      cells.push(
        seen.length < taken.length || taken.length === 0
          ? 'not within 3 s'
          : `${median(seen).toFixed(1)} (at most ${Math.max(...seen).toFixed(1)})`
      )
    }
    rows.push([subject, ...cells, ours.includes(subject) ? `${goalMs} ms: ${longest <= goalMs ? 'met' : 'missed'}` : ''])
  }
  if (rows.length === 0) return
  console.log('\nMilliseconds until the server sees the close\n')
  printTable(['subject', ...ways, 'goal'], rows)
}
