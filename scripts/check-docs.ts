// Compiles every ```ts block of the documentation on its own: `node scripts/check-docs.ts [root]`. Imports resolve as they
// would for somebody who has installed every package. A block marked ```ts no-check is left out.
import { spawnSync } from 'node:child_process'
import { globSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'

const pages = ['README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md', 'docs/**/*.md', 'packages/*/README.md', 'apps/*/README.md']

interface Block {
  readonly page: string
  /** The line of the page on which the fence stands. */
  readonly line: number
  readonly code: string
}

/** The checked blocks of a page, indentation of the fence removed. */
function blocksOf(page: string, text: string): Block[] {
  return Array.from(text.matchAll(/^([ \t]*)```(?:ts|typescript)\b(?! *no-check)[^\n]*\n([\s\S]*?)^\1```/gm), (match) => {
    const [, indent = '', code = ''] = match
    const line = text.slice(0, match.index).split('\n').length
    return { page, line, code: code.replaceAll(new RegExp(`^${indent}`, 'gm'), '') }
  })
}

/** A node_modules with the workspace's packages and everything that any of them has installed. */
function linkPackages(home: string, folder: string): void {
  const linked = new Set<string>()
  const link = (name: string, target: string): void => {
    if (linked.has(name)) return
    linked.add(name)
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    symlinkSync(target, join(folder, name), 'junction')
  }
  for (const name of readdirSync(join(home, 'packages'))) link(`@millrace/${name}`, join(home, 'packages', name))
  for (const installed of globSync(['packages/*/node_modules', 'apps/*/node_modules'], { cwd: home }).toSorted()) {
    for (const name of globSync(['[!.@]*', '@*/*'], { cwd: join(home, installed) })) link(name, join(home, installed, name))
  }
}

const home = resolve(import.meta.dirname, '..')
const root = resolve(process.argv[2] ?? home)
const folder = join(home, '.cache', root === home ? 'docs' : `docs-${process.pid}`)

const blocks = globSync(pages, { cwd: root })
  .toSorted()
  .flatMap((page) => blocksOf(page, readFileSync(join(root, page), 'utf8')))

rmSync(folder, { recursive: true, force: true })
try {
  mkdirSync(folder, { recursive: true })
  linkPackages(home, join(folder, 'node_modules'))
  const sources = new Map<string, Block>()
  for (const [index, block] of blocks.entries()) {
    const name = `${block.page.replace(/\.md$/, '').replaceAll(/[^\w]+/g, '-')}-${index + 1}.ts`
    // `export {}` makes a module of a block without imports, so that it may await at the top.
    writeFileSync(join(folder, name), `${block.code}\nexport {}\n`)
    sources.set(name, block)
  }
  const options = { extends: join(home, 'tsconfig.tests.json'), compilerOptions: { incremental: false }, include: ['*.ts'] }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(options))

  const tsc =
    blocks.length === 0
      ? undefined
      : spawnSync(join(home, 'node_modules/.bin/tsc'), ['-p', folder, '--pretty', 'false'], { encoding: 'utf8' })
  if (tsc?.error !== undefined) throw tsc.error
  for (const message of (tsc?.stdout ?? '').split('\n').filter(Boolean)) console.error(onPage(message, sources))
  console.log(`docs: ${blocks.length} blocks, ${tsc === undefined || tsc.status === 0 ? 'all compile' : 'some do not compile'}`)
  process.exitCode = tsc?.status ?? 0
} finally {
  if (root !== home) rmSync(folder, { recursive: true, force: true })
}

/** The compiler's message with the page and line in place of the generated file's. */
function onPage(message: string, sources: ReadonlyMap<string, Block>): string {
  const match = /^(.*?)\((\d+),(\d+)\): (.*)$/.exec(message)
  if (match === null) return message
  const [, file = '', line, column, text] = match
  const block = sources.get(relative(folder, resolve(file)))
  return block === undefined ? message : `${block.page}:${block.line + Number(line)}:${column} ${text}`
}
