import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type ErrorCode, type HttpRequest, isMillraceError, type MillraceError } from '@millrace/core'
import type { Transport } from '@millrace/transport'
import { expect } from 'vitest'

export function post(url: string, more: Partial<HttpRequest> = {}): HttpRequest {
  return { method: 'POST', url, headers: {}, body: '{}', ...more }
}

/** The whole text of the answer. */
export async function ask(transport: Transport, url: string, more: Partial<HttpRequest> = {}): Promise<string> {
  const { body } = await transport.send(post(url, more))
  return body.text()
}

/** What `work` rejects with. */
export async function failing(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => expect.fail('it should have failed'),
    (error: unknown) => error
  )
}

/** The same, where it has to be one of ours. */
export async function failure<C extends ErrorCode>(work: Promise<unknown>, code: C): Promise<MillraceError<C>> {
  const error = await failing(work)
  if (!isMillraceError(error, code)) throw error
  return error
}

export const times = <T>(count: number, make: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => make(index))

export interface Child extends AsyncDisposable {
  readonly pid: number
  /** The next line it prints. */
  line(): Promise<string>
  /** Its exit code, when it has ended. */
  readonly ended: Promise<number | null>
  kill(signal: NodeJS.Signals): void
}

/** Runs a program in a process of its own, from source. */
export function run(program: string, command: readonly string[] = [process.execPath]): Child {
  const [file = '', ...before] = command
  const flags = ['--conditions=@millrace/source', '--input-type=module', '-e', program]
  const child = spawn(file, [...before, ...flags], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    stdio: ['pipe', 'pipe', 'inherit']
  })
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  const ended = once(child, 'exit').then(([code]) => code as number | null)
  return {
    pid: child.pid as number,
    ended,
    line: async () => String((await lines.next()).value),
    kill: (signal) => void child.kill(signal),
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL')
      await ended
    }
  }
}
