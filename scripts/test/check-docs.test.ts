import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

const script = new URL('../check-docs.ts', import.meta.url).pathname
const fence = '```'
const core = '@millrace/core'
let root: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'docs-'))
})
afterEach(() => rmSync(root, { recursive: true }))

function check(files: Readonly<Record<string, string>>): { status: number | null; stdout: string; stderr: string } {
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(join(root, file, '..'), { recursive: true })
    writeFileSync(join(root, file), text)
  }
  return spawnSync(process.execPath, [script, root], { encoding: 'utf8' })
}

const good = `# Title

${fence}ts
import { pipe } from '${core}'

const answer: number = await Promise.resolve(pipe(1, (n) => n + 1))
console.log(answer)
${fence}

${fence}sh
npm install
${fence}
`

test('blocks that compile pass, each on its own', () => {
  const { status, stdout } = check({ 'README.md': good + good, 'docs/deep/page.md': good })
  expect(stdout).toBe('docs: 3 blocks, all compile\n')
  expect(status).toBe(0)
})

test('a block that does not compile fails with the line of its page', () => {
  const broken = `${good}\n- a list\n\n  ${fence}ts\n  const text: string = 1\n  ${fence}\n`
  const { status, stdout, stderr } = check({ 'README.md': broken, 'packages/a/README.md': good })
  expect(stderr).toMatch(/^README\.md:17:7 error TS2322/)
  expect(stdout).toBe('docs: 3 blocks, some do not compile\n')
  expect(status).not.toBe(0)
})

test('a block that imports what no package exports fails', () => {
  const page = `${fence}ts\nimport { nothing } from '${core}'\nconsole.log(nothing)\n${fence}\n`
  const { status, stderr } = check({ 'ARCHITECTURE.md': page })
  expect(stderr).toMatch(/^ARCHITECTURE\.md:2:10 error TS2305/)
  expect(status).not.toBe(0)
})

test('a block marked no-check, and a page without blocks, pass', () => {
  const { status, stdout } = check({ 'README.md': `${fence}ts no-check\nconst text: string = 1\n${fence}\n` })
  expect(stdout).toBe('docs: 0 blocks, all compile\n')
  expect(status).toBe(0)
})
