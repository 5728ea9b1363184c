// What a million items that are generated one after the other take of memory. Flags: --only=name,name
import type { Memory } from './batch-memory-main.ts'
import { start } from './programs.ts'
import { printTable } from './tables.ts'

const ours = ['batch', 'batch in input order', 'batch longest first']
const subjects = ['bare loops', 'fixed windows', ...ours, 'p-queue', 'p-limit', 'LangChain .batch']
const goalMB = 1

export async function memory(only: readonly string[] | undefined): Promise<void> {
  const rows: string[][] = []
  for (const name of subjects.filter((subject) => only?.includes(subject) ?? true)) {
    // A million would be ten times as much, and longer than the rest together.
    const count = name === 'LangChain .batch' ? 100_000 : 1_000_000
    await using child = await start('batch-memory-main.ts', [name, `${count}`], { flags: ['--expose-gc'] })
    const { liveMB, peakMB, peakBeforeMB } = child.hello as Memory
    rows.push([
      name,
      count.toLocaleString('en'),
      liveMB.toFixed(2),
      peakBeforeMB.toFixed(0),
      peakMB.toFixed(0),
      ours.includes(name) ? `live heap at most ${goalMB} MB: ${liveMB <= goalMB ? 'met' : 'missed'}` : ''
    ])
  }
  if (rows.length === 0) return
  console.log('\nMemory in MB when nine of ten lazy items are through, 10 at a time\n')
  printTable(['subject', 'items', 'live heap more than before', 'resident before', 'resident at most', 'goal'], rows)
}
