import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { command } from '../src/command.ts'

/** No output may ever show it. */
export const canary = 'sk-canary-0123456789abcdef'

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))

export interface RunOptions {
  readonly stdin?: string | undefined
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
  /** No file may be longer, in blocks of 512 bytes. */
  readonly maxBlocks?: number | undefined
  /** Leaves stdin to the test. */
  readonly openStdin?: boolean | undefined
}

export interface Running {
  readonly child: ChildProcess
  /** What it wrote on stderr so far. */
  errors(): string
  readonly ended: Ended
}

/** `millrace` as a process of its own, from source. */
export function start(args: readonly string[], { stdin, env, openStdin, maxBlocks }: RunOptions = {}): Running {
  const program = [process.execPath, '--conditions=@millrace/source', main, ...args]
  // `exec`: the process is ours to signal.
  const shell = maxBlocks === undefined ? 'exec "$@"' : `ulimit -f ${maxBlocks}; exec "$@"`
  const child = spawn('/bin/sh', ['-c', shell, 'sh', ...program], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { PATH: process.env.PATH, OPENAI_API_KEY: canary, ANTHROPIC_API_KEY: canary, ...env }
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  // A child that ended without reading breaks the pipe; its exit code tells what happened.
  child.stdin.on('error', () => {})
  if (openStdin !== true) child.stdin.end(stdin ?? '')
  return {
    child,
    errors: () => stderr,
    ended: once(child, 'close').then(([code]) => ({ code: code as number | null, stdout, stderr }))
  }
}

/** `millrace` in this process, which is much sooner; where the process is the point, `start` it. */
export async function run(args: readonly string[], { stdin, env }: Pick<RunOptions, 'stdin' | 'env'> = {}): Ended {
  let stdout = ''
  let stderr = ''
  const code = await command(args, {
    env: { OPENAI_API_KEY: canary, ANTHROPIC_API_KEY: canary, ...env },
    stdin: Readable.from([Buffer.from(stdin ?? '')]),
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) }
  })
  return { code, stdout, stderr }
}

type Ended = Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>

export interface Folder extends AsyncDisposable {
  path(name: string): string
  write(name: string, text: string | Uint8Array): Promise<string>
  read(name: string): Promise<string>
  /** Of a file of JSON lines. */
  lines(name: string): Promise<readonly Result[]>
  close(): Promise<void>
}

// What the two formats have; a test that reads what is not there fails.
export interface Result {
  readonly id: string
  readonly custom_id: string
  readonly response: { readonly status_code: number; readonly request_id: string; readonly body: Body } | null
  readonly error: { readonly code: string; readonly message: string } | null
  readonly result: {
    readonly type: string
    readonly message: Body
    readonly error: { readonly error: { readonly type: string } }
  }
}

interface Body {
  readonly n: number
  readonly choices: readonly { readonly message: { readonly content: string } }[]
  readonly content: readonly { readonly text: string }[]
  readonly error: { readonly code: string }
}

export async function makeFolder(): Promise<Folder> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-cli-'))
  const path = (name: string): string => join(folder, name)
  const close = (): Promise<void> => rm(folder, { recursive: true, force: true })
  return {
    path,
    async write(name, text) {
      await writeFile(path(name), text)
      return path(name)
    },
    read: (name) => readFile(path(name), 'utf8'),
    async lines(name) {
      const text = await readFile(path(name), 'utf8')
      return text
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as Result)
    },
    close,
    [Symbol.asyncDispose]: close
  }
}

/** A batch file with `count` requests in OpenAI's format. */
export function openaiFile(count: number, more: object = {}): string {
  return Array.from({ length: count }, (_, n) => `${JSON.stringify(openaiLine(n, more))}\n`).join('')
}

export function openaiLine(n: number, more: object = {}): object {
  const body = { model: 'scripted-small', messages: [{ role: 'user', content: `What about ${n}?` }], n: 1, ...more }
  return { custom_id: `item-${n}`, method: 'POST', url: '/v1/chat/completions', body }
}

export interface Seen {
  readonly key: string | undefined
  readonly headers: IncomingMessage['headers']
  readonly url: string
  readonly body: string
}

export interface Server extends AsyncDisposable {
  readonly url: string
  /** Each request, as it came. */
  readonly seen: readonly Seen[]
  close(): Promise<void>
}

/** A server that answers as the test says, and keeps what it was asked. */
export async function startServer(reply: (seen: Seen, response: ServerResponse) => void | Promise<void>): Promise<Server> {
  const seen: Seen[] = []
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const piece of request.setEncoding('utf8')) body += piece as string
    const key = request.headers['idempotency-key'] as string | undefined
    const one = { key, headers: request.headers, url: request.url ?? '', body }
    seen.push(one)
    await reply(one, response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  async function close(): Promise<void> {
    server.closeAllConnections()
    if (server.listening) await new Promise((resolve) => server.close(resolve))
  }
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen, close, [Symbol.asyncDispose]: close }
}

export function sendJson(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}

export async function until(test: () => boolean | Promise<boolean>, limitMs = 60_000): Promise<void> {
  const end = performance.now() + limitMs
  while (!(await test())) {
    if (performance.now() > end) throw new Error('it did not come true in time')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
