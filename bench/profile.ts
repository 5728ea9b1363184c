// Where the CPU time of one subject goes: `pnpm bench profile adapter.complete`.
// Flags: --of=overhead (or streaming, cache, cache-stampede, batch, limits, tokens, tokens-stream) --at=memory (of the caches and
// limits; or redis, of the caches keys; of streaming event, packed or cut; of batch generator or array; of tokens "code/4000/0",
// of tokens-stream "code/tokens") --concurrency=50 (of batch 1) --ms=4000 --top=40
// --keep=file.cpuprofile (opens in Chrome's DevTools).
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startRedis } from '@millrace/testkit'
import { start } from './programs.ts'
import { printTable } from './tables.ts'

interface Frame {
  readonly functionName: string
  readonly url: string
  readonly lineNumber: number
}
interface Node {
  readonly id: number
  readonly callFrame: Frame
  readonly children?: readonly number[]
}
interface Profile {
  readonly nodes: readonly Node[]
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
  readonly endTime: number
  readonly startTime: number
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    of: { type: 'string', default: 'overhead' },
    at: { type: 'string' },
    concurrency: { type: 'string', default: '50' },
    ms: { type: 'string', default: '4000' },
    top: { type: 'string', default: '40' },
    keep: { type: 'string' }
  }
})
const [subject = 'adapter.complete'] = positionals
const [concurrency, ms, top] = [Number(values.concurrency), Number(values.ms), Number(values.top)]

const dir = mkdtempSync(join(tmpdir(), 'millrace-profile-'))
const units = await run()
const [file] = readdirSync(dir)
if (file === undefined) throw new Error('the child wrote no profile')
const profile = JSON.parse(readFileSync(join(dir, file), 'utf8')) as Profile
if (values.keep !== undefined) copyFileSync(join(dir, file), values.keep)
rmSync(dir, { recursive: true })
report(profile)

async function run(): Promise<number> {
  await using stack = new AsyncDisposableStack()
  const at = await open(stack)
  const flags = ['--cpu-prof', `--cpu-prof-dir=${dir}`, '--cpu-prof-interval=250']
  await using child = await start(`${values.of}-main.ts`, [subject, at], { flags })
  await child.ask({ concurrency, ms: 2000 })
  const sample = await child.ask({ concurrency, ms })
  return sample.units
}

/** What the child works on, for as long as the stack stands. */
async function open(stack: AsyncDisposableStack): Promise<string> {
  if (values.of === 'tokens') return values.at ?? 'English/4000/0'
  if (values.of === 'batch') return values.at ?? 'generator'
  if (values.of === 'tokens-stream') return values.at ?? 'English/tokens'
  const server = async (program: string): Promise<string> =>
    `http://127.0.0.1:${String(stack.use(await start(program, ['0'])).hello)}`
  if (values.of === 'streaming') return `${await server('streaming-server-main.ts')}/${values.at ?? 'event'}`
  if (!/^(?:cache|limits)/.test(values.of)) return server('server-main.ts')
  if (values.at !== 'redis') return values.at ?? 'memory'
  const redis = stack.use(await startRedis())
  if (redis === undefined) throw new Error('there is no redis-server here')
  return redis.url
}

/** Self time of the last `ms` only: what went before opened the sockets and let the compiler see the code. */
function report({ nodes, samples, timeDeltas, startTime, endTime }: Profile): void {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const parents = new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node] as const)))
  const byPackage = new Map<string, number>()
  const byFunction = new Map<string, number>()
  let at = startTime
  let total = 0
  for (const [index, id] of samples.entries()) {
    const us = timeDeltas[index] ?? 0
    at += us
    const node = byId.get(id)
    if (node === undefined || at < endTime - ms * 1000 || node.callFrame.functionName === '(idle)') continue
    const group = packageOf(node)
    total += us
    byPackage.set(group, (byPackage.get(group) ?? 0) + us)
    const name = `${group}: ${nameOf(node, parents.get(id))}`
    byFunction.set(name, (byFunction.get(name) ?? 0) + us)
  }
  console.log(
    `\n${subject}, ${concurrency} at a time: ${units} calls, chunks, items or texts in ${ms} ms, ${(total / units).toFixed(2)} us each\n`
  )
  print('package', byPackage, total)
  console.log()
  print('function', byFunction, total)
}

function print(head: string, times: ReadonlyMap<string, number>, total: number): void {
  const rows = [...times].toSorted(([, a], [, b]) => b - a).slice(0, top)
  printTable(
    [head, 'self time', 'us each'],
    rows.map(([name, us]) => [name, `${((us / total) * 100).toFixed(1)} %`, (us / units).toFixed(2)])
  )
}

function packageOf({ callFrame: { functionName, url } }: Node): string {
  if (functionName === '(garbage collector)') return 'gc'
  if (url.startsWith('node:')) return 'node'
  if (url.startsWith('wasm:')) return 'wasm'
  const installed = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1]
  return installed ?? /\/packages\/([^/]+)\//.exec(url)?.[1] ?? (/\/bench\//.test(url) ? 'bench' : 'native')
}

/** Code that has no line of its own, such as `JSON.parse` or a system call, is told with who called it. */
function nameOf({ callFrame: { functionName, url, lineNumber } }: Node, parent: Node | undefined): string {
  const name = functionName || '(anonymous)'
  if (url !== '') return `${name} ${url.slice(url.lastIndexOf('/') + 1)}:${lineNumber + 1}`
  if (parent === undefined || parent.callFrame.functionName === '(root)') return name
  return `${name}, by ${packageOf(parent)} ${parent.callFrame.functionName || '(anonymous)'}`
}
