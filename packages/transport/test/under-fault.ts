import { fork } from 'node:child_process'
import { once } from 'node:events'
import { type HttpBody, type HttpRequest, isMillraceError, type MillraceError } from '@millrace/core'
import { expect } from 'vitest'

/** A POST of a JSON body that asks for a stream. */
export function post(url: string, more: Partial<HttpRequest> = {}): HttpRequest {
  return { method: 'POST', url, headers: { 'content-type': 'application/json' }, body: '{"stream":true}', ...more }
}

/** What `work` fails with. */
export function failing(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    (value) => expect.fail(`it should have failed, and gave ${JSON.stringify(value)?.slice(0, 200)}`),
    (error: unknown) => error
  )
}

/** The error, if it is ours and has this code. */
export function ofCode<C extends MillraceError['code']>(error: unknown, code: C): MillraceError<C> {
  if (!isMillraceError(error, code)) throw error
  return error
}

export interface Received {
  readonly text: string
  readonly error: unknown
}

/** All that a body gives, and what it ends with. */
export async function receive(body: HttpBody): Promise<Received> {
  const decoder = new TextDecoder()
  let text = ''
  try {
    for await (const batch of body) for (const piece of batch) text += decoder.decode(piece, { stream: true })
  } catch (error) {
    return { text, error }
  }
  return { text, error: undefined }
}

/** Sees every timer made with the global `setTimeout`, the unref'd ones too, which `getActiveResourcesInfo` does not show. */
export function watchTimers(): { readonly left: number } & Disposable {
  const made: NodeJS.Timeout[] = []
  const real = globalThis.setTimeout
  globalThis.setTimeout = new Proxy(real, {
    apply(target, self, parameters) {
      const timer = Reflect.apply(target, self, parameters) as NodeJS.Timeout
      made.push(timer)
      return timer
    }
  })
  return {
    get left() {
      // Node's own mark of a timer that has fired or was cleared.
      return made.filter((timer) => Reflect.get(timer, '_destroyed') !== true).length
    },
    [Symbol.dispose]() {
      globalThis.setTimeout = real
    }
  }
}

export interface Clocked {
  readonly error: unknown
  /** Behind a bare timer of the same length. */
  readonly lateMs: number
  readonly elapsedMs: number
  /** What is allowed: 50 ms and 5 %, and for a machine under load twice what the bare timer was late. */
  readonly allowedMs: number
}

/** Times a failure against a bare timer that starts at once, and anew when `work` says so. */
export async function clocked(limitMs: number, work: (start: () => void) => Promise<unknown>): Promise<Clocked> {
  let startedAt = 0
  let bare: Promise<number> | undefined
  const start = (): void => {
    startedAt = performance.now()
    bare = new Promise((resolve) => setTimeout(() => resolve(performance.now()), limitMs))
  }
  // On a busy machine the process stands still now and then: that is nobody's lateness, and a beat tells how long it was.
  let stalledMs = 0
  let beatAt = performance.now()
  const beat = (): void => {
    const gapMs = performance.now() - beatAt
    if (gapMs > 10) stalledMs += gapMs - 5
    beatAt += gapMs
  }
  const beats = setInterval(beat, 5)
  start()
  const error = await failing(work(start))
  const endedAt = performance.now()
  beat()
  clearInterval(beats)
  const bareAt = (await bare) ?? 0
  const allowedMs = 50 + 0.05 * limitMs + stalledMs
  return { error, lateMs: endedAt - bareAt, elapsedMs: endedAt - startedAt, allowedMs }
}

/** Stops the event loop, as a long computation does. */
export function block(ms: number): void {
  const end = performance.now() + ms
  while (performance.now() < end);
}

type Counts = Readonly<Record<string, number>>

export interface ServerProcess extends AsyncDisposable {
  readonly url: string
  /** What the server counts, asked now. */
  counts(): Promise<Counts>
}

/**
 * A server in a process of its own, so that neither side's load is the other's delay. The program sends `{ url }` when it
 * listens, and its counts whenever it is sent anything.
 */
export async function startServer(program: URL, parameters: readonly string[] = []): Promise<ServerProcess> {
  const child = fork(program, parameters, { execArgv: ['--conditions=@millrace/source'], stdio: 'inherit' })
  const [{ url }] = (await once(child, 'message')) as [{ readonly url: string }]
  return {
    url,
    async counts() {
      child.send('counts')
      const [counts] = (await once(child, 'message')) as [Counts]
      return counts
    },
    async [Symbol.asyncDispose]() {
      const ended = once(child, 'exit')
      child.disconnect()
      await ended
    }
  }
}

/** Waits until the server's counts are as given. */
export async function counted(server: ServerProcess, expected: Counts): Promise<void> {
  const end = performance.now() + 3000
  for (;;) {
    const counts = await server.counts()
    if (Object.entries(expected).every(([name, value]) => counts[name] === value)) return
    if (performance.now() > end) {
      expect(counts).toMatchObject(expected)
      return
    }
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
