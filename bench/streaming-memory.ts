// The most memory that reading streams takes, in a fresh process for each number of streams at a time. Flags: --only=name,name
import { start } from './programs.ts'
import { printTable } from './tables.ts'

const subjects = [
  'undici.request bytes',
  'undici.request with eventsource-parser',
  'adapter.stream text',
  'adapter.stream',
  'adapter.stream with operators',
  'openai client',
  'LangChain ChatOpenAI.stream',
  'AI SDK streamText'
]

export async function memory(only: readonly string[] | undefined): Promise<void> {
  await using server = await start('streaming-server-main.ts', [])
  const at = `http://127.0.0.1:${String(server.hello)}/event`
  const rows: string[][] = []
  for (const subject of subjects.filter((name) => only?.includes(name) ?? true)) {
    const cells: string[] = []
    for (const concurrency of [1, 50]) {
      await using child = await start('streaming-main.ts', [subject, at])
      const { peakMB } = await child.ask({ concurrency, ms: 2000 })
      cells.push((Number(child.hello) / 1e6).toFixed(0), peakMB.toFixed(0))
    }
    rows.push([subject, ...cells])
  }
  if (rows.length === 0) return
  console.log('\nResident memory in MB: with all loaded, and the highest of two seconds of streams\n')
  printTable(['subject', 'before', '1 at a time', 'before', '50 at a time'], rows)
}
