// Which package may import which: `node scripts/edges.ts [root]` prints every import that the tables below do not allow.
import { existsSync, globSync, readFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { dirname, relative, resolve, sep } from 'node:path'

const spoke = ['core']

/** What each package imports from the workspace. Its tests may also import the package itself and testkit. */
const edges: Readonly<Record<string, readonly string[] | 'all'>> = {
  'packages/core': [],
  'packages/transport': spoke,
  'packages/cache': spoke,
  'packages/tokens': spoke,
  'packages/streaming': spoke,
  'packages/limits': spoke,
  'packages/batch': spoke,
  'packages/telemetry': spoke,
  'packages/adapter': ['core', 'transport', 'cache', 'tokens', 'streaming', 'limits', 'batch'],
  'packages/cli': ['core', 'transport', 'limits', 'batch', 'adapter'],
  'packages/testkit': [],
  'apps/sample': 'all',
  bench: 'all',
  scripts: []
}

/** Where each library of others may be imported. `tests` stands for the tests of every package. */
const owners: Readonly<Record<string, readonly string[]>> = {
  undici: ['packages/transport', 'bench'],
  'proxy-from-env': ['packages/transport'],
  keyv: ['packages/cache', 'bench'],
  'lru-cache': ['packages/cache', 'bench'],
  '@keyv/redis': ['packages/cache', 'bench'],
  '@redis/client': ['packages/streaming tests', 'packages/limits tests', 'bench'],
  bullmq: ['packages/batch'],
  redis: ['packages/batch'],
  'p-limit': ['bench'],
  'p-queue': ['bench'],
  tiktoken: ['packages/tokens', 'bench'],
  '@pydantic/genai-prices': ['packages/tokens'],
  'js-tiktoken': ['bench'],
  'gpt-tokenizer': ['bench'],
  'ai-tokenizer': ['bench'],
  '@opentelemetry/api': ['packages/telemetry', 'apps/sample'],
  '@opentelemetry/sdk-trace': ['packages/telemetry tests', 'apps/sample'],
  '@opentelemetry/sdk-metrics': ['packages/telemetry tests', 'apps/sample'],
  '@opentelemetry/sdk-node': ['packages/telemetry', 'apps/sample', 'bench'],
  '@opentelemetry/exporter-prometheus': ['apps/sample'],
  hono: ['apps/sample'],
  '@hono/node-server': ['apps/sample'],
  uplot: ['apps/sample'],
  zod: ['apps/sample', 'packages/transport tests', 'bench'],
  'playwright-core': ['packages/testkit'],
  '@sparticuz/chromium': ['packages/testkit'],
  openai: ['tests', 'bench'],
  '@anthropic-ai/sdk': ['tests', 'bench'],
  ai: ['tests', 'bench'],
  '@ai-sdk/openai': ['tests', 'bench'],
  '@ai-sdk/otel': ['bench'],
  '@langchain/openai': ['apps/sample tests', 'bench'],
  '@langchain/core': ['apps/sample tests', 'bench'],
  '@langchain/redis': ['bench'],
  bentocache: ['bench'],
  cacheable: ['bench'],
  'eventsource-parser': ['bench'],
  ioredis: ['bench'],
  'fast-check': ['tests'],
  vitest: ['tests']
}

/** An import in a file, and where it stands. */
interface Import {
  readonly file: string
  readonly line: number
  readonly specifier: string
}

/** The package a file is in, and whether the file is part of what it ships or of its tests. */
interface Place {
  readonly folder: string
  readonly test: boolean
}

// The formatter puts every import and export statement at the start of a line, so no parser is needed.
const patterns = [
  /^(?:import|export)\b[^'"`;]*?\bfrom\s+['"]([^'"\n]+)['"]/gm,
  /^(?:import|declare module)\s+['"]([^'"\n]+)['"]/gm,
  /\b(?:import|require)\(\s*['"]([^'"\n]+)['"]/g
]

function importsOf(root: string, file: string): Import[] {
  const text = readFileSync(resolve(root, file), 'utf8')
  return patterns.flatMap((pattern) =>
    Array.from(text.matchAll(pattern), (match) => {
      const specifier = match[1] ?? ''
      const before = text.slice(0, match.index + match[0].lastIndexOf(specifier))
      return { file, line: before.split('\n').length, specifier }
    })
  )
}

function placeOf(file: string): Place {
  const [first = '', second = '', third] = file.split(sep)
  if (first === 'packages' || first === 'apps') return { folder: `${first}/${second}`, test: third !== 'src' }
  return { folder: first, test: second === 'test' }
}

/** Why this import is not allowed, or undefined. */
function objection({ file, specifier }: Import): string | undefined {
  const { folder, test } = placeOf(file)
  if (specifier.startsWith('.')) {
    const leaves = relative(folder, resolve(dirname(file), specifier)).startsWith('..')
    return leaves ? `a relative import must stay in ${folder}; import the package by its name` : undefined
  }
  if (isBuiltin(specifier)) return specifier.startsWith('node:') ? undefined : `write node:${specifier}`

  const [scope = '', second, ...rest] = specifier.split('/')
  if (scope === '@millrace') {
    if (rest[0] === 'src' || rest[0] === 'dist') return 'deep imports bypass the exports of the package'
    return workspaceObjection(second ?? '', folder, test)
  }
  const library = scope.startsWith('@') ? `${scope}/${second}` : scope
  const places = owners[library]
  if (places === undefined) return test ? undefined : `${library} has no owner; name one in the table of scripts/edges.ts`
  const allowed = places.includes(folder) || (test && (places.includes(`${folder} tests`) || places.includes('tests')))
  return allowed ? undefined : `${library} belongs to ${places.join(' and ')}`
}

function workspaceObjection(name: string, folder: string, test: boolean): string | undefined {
  const allowed = edges[folder]
  if (allowed === undefined) return `${folder} is not in the table of scripts/edges.ts`
  if (allowed === 'all' || allowed.includes(name)) return undefined
  if (test && (name === 'testkit' || folder === `packages/${name}`)) return undefined
  if (name === 'testkit') return 'testkit is for tests'
  return `${folder} may import ${allowed.length === 0 ? 'no workspace package' : allowed.map((one) => `@millrace/${one}`).join(', ')}`
}

const root = resolve(process.argv[2] ?? new URL('..', import.meta.url).pathname)
if (!existsSync(resolve(root, 'packages'))) throw new TypeError(`${root} has no folder packages: give the root of the workspace`)

const files = globSync(
  ['packages/*/**/*.{ts,tsx,mts,js,mjs}', 'apps/*/**/*.{ts,tsx,mts,js,mjs}', 'bench/**/*.ts', 'scripts/**/*.ts'],
  {
    cwd: root,
    exclude: (name) => name.split(sep).some((part) => part === 'node_modules' || part === 'dist' || part.startsWith('.'))
  }
)
let violations = 0
for (const found of files.toSorted().flatMap((file) => importsOf(root, file))) {
  const reason = objection(found)
  if (reason === undefined) continue
  violations++
  console.error(`${found.file}:${found.line} imports ${found.specifier}: not allowed because ${reason}`)
}
console.log(`edges: ${files.length} files, ${violations} forbidden imports`)
process.exitCode = violations === 0 ? 0 : 1
