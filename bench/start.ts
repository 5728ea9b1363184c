// How long a fresh process takes to import a client and create it, from the built files: run `pnpm build` first.
// Flags: --processes=15 for each, taking turns.
import { parseArgs } from 'node:util'
import { start } from './programs.ts'
import { quantile } from './quantile.ts'
import { printTable } from './tables.ts'

const { values } = parseArgs({ options: { processes: { type: 'string', default: '15' } } })
const goalMs = 40
const subjects = ['undici', '@millrace/transport', '@millrace/adapter', 'openai', 'ai', '@langchain/openai']
const times = new Map(subjects.map((name) => [name, [] as number[]]))

// Round 0 brings the files into the system's memory.
for (let round = 0; round <= Number(values.processes); round++) {
  for (const name of subjects) {
    await using child = await start('start-main.ts', [name], { built: true })
    if (round > 0) times.get(name)?.push(child.hello as number)
  }
}

console.log('\nImport and create, in a fresh process\n')
printTable(
  ['package', 'ms', 'quartiles', 'goal'],
  [...times].map(([name, taken]) => {
    const [low, middle, high] = [0.25, 0.5, 0.75].map((share) => quantile(taken, share).toFixed(1))
    const goal = `within ${goalMs} ms: ${Number(middle) <= goalMs ? 'met' : 'missed'}`
    return [name, `${middle}`, `${low} to ${high}`, name === '@millrace/adapter' ? goal : '']
  })
)
