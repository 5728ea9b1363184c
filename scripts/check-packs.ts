// Packs every public package as it is published (by pnpm, which writes real versions for `workspace:` and `catalog:`), and
// looks at the tarballs: publint, and no version that only this workspace understands.
import { spawnSync } from 'node:child_process'
import { globSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'

const home = resolve(import.meta.dirname, '..')
const packs = join(home, '.cache/packs')

interface Manifest {
  readonly name: string
  readonly private?: boolean
  readonly packageManager?: string
}

const manifest = (folder: string): Manifest => JSON.parse(readFileSync(join(home, folder, 'package.json'), 'utf8')) as Manifest

function run(command: string, ...parts: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, parts, { cwd: home, encoding: 'utf8' })
  if (status === 0) return stdout
  console.error(`${stdout ?? ''}${stderr ?? ''}${error?.message ?? ''}`)
  process.exitCode = 1
  return ''
}

rmSync(packs, { recursive: true, force: true })
mkdirSync(packs, { recursive: true })
const names = globSync('packages/*', { cwd: home })
  .map(manifest)
  .filter((found) => found.private !== true)
  .map(({ name }) => name)
const filters = names.flatMap((name) => ['--filter', name])
run('npx', '-y', manifest('.').packageManager ?? 'pnpm', '-r', ...filters, 'pack', '--pack-destination', packs)

const tarballs = globSync('*.tgz', { cwd: packs }).toSorted()
if (tarballs.length !== names.length) {
  console.error(`${names.length} packages gave ${tarballs.length} tarballs`)
  process.exitCode = 1
}
for (const tarball of tarballs) {
  const path = join(packs, tarball)
  run(join(home, 'node_modules/.bin/publint'), 'run', '--strict', path)
  for (const [line] of run('tar', 'xzOf', path, 'package/package.json').matchAll(/.*"(?:workspace|catalog):.*/g)) {
    console.error(`${tarball}: ${line.trim()} cannot be installed`)
    process.exitCode = 1
  }
  const files = run('tar', 'tzf', path)
  // A command has no door beside itself.
  const entry = files.includes('package/dist/main.js\n') ? 'main' : 'index'
  for (const wanted of [
    'package/LICENSE',
    'package/README.md',
    `package/dist/${entry}.js`,
    `package/dist/${entry}.d.ts`,
    `package/src/${entry}.ts`
  ]) {
    if (files.includes(`${wanted}\n`)) continue
    console.error(`${tarball}: ${wanted} is missing`)
    process.exitCode = 1
  }
}
console.log(`packs: ${tarballs.length} tarballs${process.exitCode === 1 ? '' : ', all fit to be installed'}`)
