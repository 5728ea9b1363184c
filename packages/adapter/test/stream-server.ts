import { fork } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { createAdapter } from '@millrace/adapter'
import { openai } from '@millrace/adapter/openai'
import type { ChatRequest } from '@millrace/core'
import type { Hello, Seen } from './stream-server-main.ts'

export interface StreamServer extends Hello, AsyncDisposable {
  seen(): Promise<Seen>
  /** Milliseconds from `at`, of `now()`, until one more connection than `before` told of is closed; `Infinity` after 5 s. */
  untilClosed(before: Seen, at: number): Promise<number>
  /** The same for a bare socket that is destroyed at once: what the machine needs just now to tell another process. */
  bare(): Promise<number>
}

/** Milliseconds on a clock that is the same in all processes. */
export const now = (): number => Number(process.hrtime.bigint()) / 1e6

export const request: ChatRequest = { model: 'm', messages: [{ role: 'user', content: 'go' }] }

/** An adapter whose provider answers as `path` of the server says. */
export function adapterAt(
  url: string,
  options?: Omit<Parameters<typeof createAdapter>[0], 'provider'>
): ReturnType<typeof createAdapter> {
  return createAdapter({ provider: openai({ apiKey: 'k', baseURL: `${url}/v1` }), ...options })
}

export async function startStreamServer(): Promise<StreamServer> {
  const child = fork(new URL('stream-server-main.ts', import.meta.url), { execArgv: ['--conditions=@millrace/source'] })
  const exited = once(child, 'exit')
  const [said] = (await Promise.race([once(child, 'message'), exited])) as [Hello | number | null]
  if (said === null || typeof said === 'number') throw new Error('the server of the test ended before it listened')
  const hello: Hello = said

  async function seen(): Promise<Seen> {
    const answered = once(child, 'message')
    child.send('?')
    const [told] = (await answered) as [Seen]
    return told
  }
  async function untilClosed({ closedAt: { length } }: Seen, at: number): Promise<number> {
    const until = performance.now() + 5000
    while (performance.now() < until) {
      const closed = (await seen()).closedAt[length]
      if (closed !== undefined) return closed - at
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    return Number.POSITIVE_INFINITY
  }
  async function bare(): Promise<number> {
    const socket = connect(Number(new URL(hello.muteUrl).port), '127.0.0.1')
    await once(socket, 'connect')
    await seen() // by now it is accepted
    const before = await seen()
    socket.destroy()
    return untilClosed(before, now())
  }

  return {
    ...hello,
    seen,
    untilClosed,
    bare,
    async [Symbol.asyncDispose]() {
      child.disconnect()
      await exited
    }
  }
}
