// How long a fresh process takes to import a client and create it, from the built files: run `pnpm build` first.
// Flags: --processes=15 for each, taking turns.
import { parseArgs } from 'node:util'
import { start } from './programs.ts'
import { median, printTable, quartiles } from './tables.ts'

const { values } = parseArgs({ options: { processes: { type: 'string', default: '15' } } })
const goalMs = 40
const subjects = ['undici', '@millrace/transport', '@millrace/adapter', 'openai', 'ai', '@langchain/openai']
const taken = new Map(subjects.map((name) => [name, [] as { ms: number; cpuMs: number }[]]))

// Round 0 brings the files into the system's memory.
for (let round = 0; round <= Number(values.processes); round++) {
  for (const name of subjects) {
    await using child = await start('start-main.ts', [name], { built: true })
    if (round > 0) taken.get(name)?.push(child.hello as { ms: number; cpuMs: number })
  }
}

console.log('\nImport and create, in a fresh process\n')
printTable(
  ['package', 'ms', 'quartiles', 'CPU, ms', 'goal'],
  [...taken].map(([name, samples]) => {
    const times = samples.map(({ ms }) => ms)
    const [low = '', middle = '', high = ''] = quartiles(times, 1)
    const cpu = median(samples.map(({ cpuMs }) => cpuMs)).toFixed(1)
    const goal = `within ${goalMs} ms: ${median(times) <= goalMs ? 'met' : 'missed'}`
    return [name, middle, `${low} to ${high}`, cpu, name === '@millrace/adapter' ? goal : '']
  })
)
