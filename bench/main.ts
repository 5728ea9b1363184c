// `pnpm bench` runs all files, `pnpm bench overhead` one; what follows goes to them: `pnpm bench streams --rounds=9`.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'

const files = ['overhead', 'streams']
const args = process.argv.slice(2)
const named = args.filter((arg) => !arg.startsWith('--'))
const unknown = named.find((name) => !files.includes(name))
if (unknown !== undefined) throw new TypeError(`there is no bench/${unknown}.ts; the files are ${files.join(', ')}`)

console.log(`Node ${process.version}. Read the ratios: both sides of each were measured in the same rounds of this run.`)
for (const name of named.length > 0 ? named : files) {
  const flags = args.filter((arg) => arg.startsWith('--'))
  const file = join(import.meta.dirname, `${name}.ts`)
  const { status } = spawnSync(process.execPath, ['--conditions=@millrace/source', file, ...flags], { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}
