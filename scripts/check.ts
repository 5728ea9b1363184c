// Everything a change must pass: `pnpm check`, or `pnpm check --no-tests` where the tests run on their own.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'

const home = resolve(import.meta.dirname, '..')

const { packageManager: manager = 'pnpm' } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as {
  readonly packageManager?: string
}

interface Step {
  readonly name: string
  /** Commands, one after the other; the step fails with the first that does. */
  readonly commands: readonly (readonly string[])[]
}

const steps: readonly Step[] = [
  { name: 'format and order of imports', commands: [['biome', 'check', '.']] },
  {
    name: 'types',
    commands: [
      ['tsc', '-b'],
      ['tsc', '-p', 'tsconfig.tests.json'],
      ['tsc', '-p', 'apps/sample/public']
    ]
  },
  // Behind the types, which build each package: the linter reads their declarations.
  { name: 'lint', commands: [['oxlint', '--type-aware', '--deny-warnings']] },
  { name: 'edges between packages', commands: [['node', 'scripts/edges.ts']] },
  { name: 'code in the docs', commands: [['node', 'scripts/check-docs.ts']] },
  { name: 'unused files, exports and dependencies', commands: [['knip', '--no-progress', '--no-config-hints']] },
  // Turbo asks for the package manager on the PATH, which `npx` provides.
  { name: 'build', commands: [['npx', '-y', manager, 'run', 'build']] },
  { name: 'published files', commands: [['node', 'scripts/check-packs.ts']] },
  { name: 'tests', commands: [['vitest', 'run']] }
]

const known = ['--no-tests']
const unknown = process.argv.slice(2).filter((argument) => !known.includes(argument))
if (unknown.length > 0) throw new TypeError(`unknown argument ${unknown.join(' ')}; known are ${known.join(' ')}`)
const wanted = process.argv.includes('--no-tests') ? steps.filter((step) => step.name !== 'tests') : steps

const env = {
  ...process.env,
  PATH: `${join(home, 'node_modules/.bin')}${delimiter}${process.env.PATH ?? ''}`,
  DO_NOT_TRACK: '1'
}

function passes([command = '', ...parts]: readonly string[]): boolean {
  const { status, error } = spawnSync(command, parts, { cwd: home, env, stdio: ['ignore', 'inherit', 'inherit'] })
  if (error !== undefined) console.error(`${command}: ${error.message}`)
  return status === 0
}

const startedAt = performance.now()
const failed: string[] = []
for (const { name, commands } of wanted) {
  console.log(`\n== ${name}`)
  const stepStartedAt = performance.now()
  if (!commands.every(passes)) failed.push(name)
  console.log(`   ${seconds(stepStartedAt)} s`)
}
console.log(
  `\n== ${failed.length === 0 ? `all ${wanted.length} steps passed` : `failed: ${failed.join(', ')}`} in ${seconds(startedAt)} s`
)
process.exitCode = failed.length === 0 ? 0 : 1

function seconds(since: number): string {
  return ((performance.now() - since) / 1000).toFixed(1)
}
