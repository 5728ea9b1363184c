import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

const script = new URL('../edges.ts', import.meta.url).pathname
// A variable, so that the imports written in this file are not taken for its own.
const library = 'undici'
let root: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'edges-'))
  write('packages/core/src/index.ts', "import { channel } from 'node:diagnostics_channel'\nexport { channel }\n")
  write('packages/cache/src/index.ts', "import Keyv from 'keyv'\n\nexport * from '@millrace/core'\nexport { Keyv }\n")
  write(
    'packages/cache/test/cache.test.ts',
    "import { script } from '@millrace/testkit'\nimport { Keyv } from '../src/index.ts'\n"
  )
})
afterEach(() => rmSync(root, { recursive: true }))

function write(file: string, text: string): void {
  mkdirSync(dirname(join(root, file)), { recursive: true })
  writeFileSync(join(root, file), text)
}

function run(): { status: number | null; errors: string[] } {
  const { status, stderr } = spawnSync(process.execPath, [script, root], { encoding: 'utf8' })
  return { status, errors: stderr.split('\n').filter((line) => line.includes(' imports ')) }
}

test('a workspace that keeps to the table passes', () => {
  expect(run()).toEqual({ status: 0, errors: [] })
})

test.each([
  ['core imports a spoke', 'packages/core/src/a.ts', '@millrace/cache', 'may import no workspace package'],
  ['a spoke imports another', 'packages/cache/src/a.ts', '@millrace/tokens', 'may import @millrace/core'],
  ['a spoke imports the adapter', 'packages/tokens/src/a.ts', '@millrace/adapter/openai', 'may import @millrace/core'],
  ['the adapter imports telemetry', 'packages/adapter/src/a.ts', '@millrace/telemetry', 'may import'],
  ['shipped code imports testkit', 'packages/cache/src/a.ts', '@millrace/testkit', 'testkit is for tests'],
  ['testkit imports core', 'packages/testkit/src/a.ts', '@millrace/core', 'may import no workspace package'],
  ['a test imports a package its own may not', 'packages/cache/test/a.test.ts', '@millrace/tokens', 'may import @millrace/core'],
  ['a library is used outside its owner', 'packages/adapter/src/a.ts', 'undici', 'undici belongs to packages/transport'],
  ['the SDK of OpenTelemetry is shipped', 'packages/telemetry/src/a.ts', '@opentelemetry/sdk-trace', 'belongs to'],
  ['a library has no owner', 'packages/cache/src/a.ts', 'left-pad/x', 'left-pad has no owner'],
  ['an import goes deep', 'packages/cache/test/a.ts', '@millrace/core/src/pipe.ts', 'deep imports'],
  ['a relative import leaves its package', 'packages/cache/test/a.ts', '../../core/src/index.ts', 'must stay in packages/cache'],
  ['a builtin lacks its prefix', 'packages/cache/src/a.ts', 'fs/promises', 'write node:fs/promises'],
  ['a package is not in the table', 'packages/new/src/a.ts', '@millrace/core', 'packages/new is not in the table']
])('it fails when %s', (_what, file, specifier, reason) => {
  write(file, `export const a = 1\n\nexport * from '${specifier}'\n`)
  const { status, errors } = run()
  expect(status).toBe(1)
  expect(errors).toEqual([expect.stringContaining(`${file}:3 imports ${specifier}: not allowed because `)])
  expect(errors[0]).toContain(reason)
})

test.each([
  ['a named import over several lines', `import {\n  a,\n  b\n} from '${library}'\n`, 4],
  ['a type import', `import type { A } from '${library}'\n`, 1],
  ['an import for its effect', `import '${library}'\n`, 1],
  ['a dynamic import', `export const later = () => import('${library}')\n`, 1],
  ['a type in an import call', `export type A = import('${library}').Agent\n`, 1],
  ['a module augmentation', `declare module '${library}' {}\n`, 1],
  ['require', `const a = require('${library}')\n`, 1]
])('it sees %s', (_what, text, line) => {
  write('packages/tokens/src/a.ts', text)
  expect(run().errors).toEqual([expect.stringContaining(`packages/tokens/src/a.ts:${line} imports undici`)])
})

test('it looks into no dependency and no build output', () => {
  write('packages/cache/dist/index.js', "import 'undici'\n")
  write('packages/cache/node_modules/keyv/index.js', "import 'undici'\n")
  expect(run().status).toBe(0)
})
