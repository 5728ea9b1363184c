import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

export interface GatewayProcess extends AsyncDisposable {
  readonly url: string
  readonly child: ChildProcess
  /** What it wrote so far. */
  output(): string
  /** Its exit code, or the signal that ended it, and when by `performance.now()`. */
  readonly ended: Promise<{ readonly code: number | string | null; readonly at: number }>
  /** What an expression gives inside of it. */
  evaluate<T>(expression: string): Promise<T>
}

/** The program as `pnpm start` has it, on a free port, with these variables and this `gateway.json`. */
export async function startProcess(
  env: Readonly<Record<string, string>>,
  file: Readonly<Record<string, unknown>> = {}
): Promise<GatewayProcess> {
  const { OPENAI_API_KEY: _, OPENAI_BASE_URL: __, NODE_OPTIONS: ___, ...clean } = process.env
  const folder = await mkdtemp(join(tmpdir(), 'millrace-gateway-'))
  const config = join(folder, 'gateway.json')
  await writeFile(config, JSON.stringify(file))
  const program = fileURLToPath(new URL('../src/main.ts', import.meta.url))
  const child = spawn(process.execPath, ['--conditions=@millrace/source', '--expose-gc', '--inspect=0', program], {
    env: { ...clean, PORT: '0', MILLRACE_CONFIG: config, ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let text = ''
  child.stdout.on('data', (piece: Buffer) => (text += piece.toString()))
  child.stderr.on('data', (piece: Buffer) => (text += piece.toString()))
  const ended = once(child, 'close').then(async ([code, signal]) => {
    const at = performance.now()
    await rm(folder, { recursive: true, force: true })
    return { code: (code ?? signal) as number | string | null, at }
  })
  const found = async (pattern: RegExp): Promise<string> => {
    for (let rounds = 0; rounds < 1500 && child.exitCode === null; rounds++) {
      const [, part] = pattern.exec(text) ?? []
      if (part !== undefined) return part
      await delay(20)
    }
    throw new Error(`the gateway did not start: ${text}`)
  }
  const url = await found(/gateway on (http:\S+?),/)
  const inspector = await found(/Debugger listening on (ws:\S+)/)
  return {
    url,
    child,
    ended,
    output: () => text,
    evaluate: (expression) => evaluate(inspector, expression),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    }
  }
}

/** Over the inspector, which is let go at once: a process does not end while somebody is connected to it. */
async function evaluate<T>(inspector: string, expression: string): Promise<T> {
  const socket = new WebSocket(inspector)
  try {
    await once(socket, 'open')
    socket.send(
      JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression, returnByValue: true, awaitPromise: true } })
    )
    const [{ data }] = (await once(socket, 'message')) as [{ data: string }]
    const { result } = JSON.parse(data) as { result: { result: { value: T }; exceptionDetails?: object } }
    if (result.exceptionDetails !== undefined) throw new Error(JSON.stringify(result.exceptionDetails))
    return result.result.value
  } finally {
    socket.close()
  }
}
