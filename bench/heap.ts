// How much live heap is left behind by 50,000 calls, 50 at a time, once the first 30,000 have warmed everything up.
// Flags: --only=name,name --calls=50000 --processes=1, of which the median counts.
import { parseArgs } from 'node:util'
import { start } from './programs.ts'
import { median, printTable } from './tables.ts'

const { values } = parseArgs({
  options: { calls: { type: 'string', default: '50000' }, processes: { type: 'string', default: '1' }, only: { type: 'string' } }
})
const goalMB = 1
const subjects = [
  'undici.request',
  'transport.send',
  'adapter.complete',
  'adapter.complete with telemetry',
  'openai client on transport.fetch'
]

await using server = await start('server-main.ts', ['0'])
const rows: string[][] = []
const only = values.only?.split(',')
for (const name of subjects.filter((subject) => only?.includes(subject) ?? true)) {
  const grown: number[] = []
  const first: number[] = []
  for (let fresh = 0; fresh < Number(values.processes); fresh++) {
    const args = [name, `http://127.0.0.1:${String(server.hello)}`, values.calls]
    // V8 would let go of old bytecode (5 MB, once) in the middle of the count, and hide a leak of that size.
    await using child = await start('heap-main.ts', args, { flags: ['--expose-gc', '--no-flush-bytecode'] })
    const { before, after } = child.hello as { before: number; after: number }
    first.push(before / 1e6)
    grown.push((after - before) / 1e6)
  }
  const growth = median(grown)
  const ours = name.includes('adapter') || name.includes('transport')
  rows.push([
    name,
    median(first).toFixed(2),
    growth.toFixed(3),
    `${Math.min(...grown).toFixed(3)} to ${Math.max(...grown).toFixed(3)}`,
    ours ? `less than ${goalMB} MB: ${growth < goalMB ? 'met' : 'missed'}` : ''
  ])
}
console.log(`\nLive heap, before and after ${values.calls} calls\n`)
printTable(['subject', 'MB before', 'MB more after', 'least to most', 'goal'], rows)
