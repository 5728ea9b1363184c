import { spawn } from 'node:child_process'

export interface Run {
  /** What it wrote, to both streams. */
  readonly output: string
  readonly code: number | null
  readonly elapsedMs: number
}

/** Runs a program in a process of its own, with this environment and nothing else of OTEL_*, until it exits by itself. */
export async function run(program: string, env: Readonly<Record<string, string>> = {}): Promise<Run> {
  const started = performance.now()
  // Without NODE_PATH too: pnpm's shims point it to the packages of everybody.
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(OTEL|NODE_|VITEST)/.test(name)))
  const child = spawn(process.execPath, ['--conditions=@millrace/source', '--input-type=module-typescript', '-e', program], {
    cwd: new URL('..', import.meta.url).pathname,
    env: { ...inherited, ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  const { promise, resolve, reject } = Promise.withResolvers<number | null>()
  child.once('error', reject).once('close', resolve)
  return { code: await promise, output, elapsedMs: performance.now() - started }
}
