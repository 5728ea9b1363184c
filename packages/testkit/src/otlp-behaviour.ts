import type { ServerResponse } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'

/**
 * What the sink does with a request:
 * - `take`: keeps what it carries and answers as a collector does
 * - `{ delayMs }`: the same, with the answer so much later
 * - `stall`: reads it and never answers
 * - `{ status, retryAfter }`: reads it and answers with an error, and `Retry-After` in seconds
 * - `reset`: reads it and breaks the connection off (RST)
 * - `refuse`: nobody listens on the port, and open connections are broken off
 */
export type OtlpBehaviour =
  | 'take'
  | 'stall'
  | 'reset'
  | 'refuse'
  | { readonly delayMs: number }
  | { readonly status: number; readonly retryAfter?: number | undefined }

/** Whether what a request carries is kept. */
export function takes(behaviour: OtlpBehaviour): boolean {
  return behaviour === 'take' || (typeof behaviour === 'object' && 'delayMs' in behaviour)
}

/** Answers a well-formed request. */
export async function answer(behaviour: OtlpBehaviour, contentType: string, response: ServerResponse): Promise<void> {
  if (behaviour === 'stall') return
  if (behaviour === 'reset' || behaviour === 'refuse') {
    response.socket?.resetAndDestroy()
    return
  }
  let status = 200
  if (typeof behaviour === 'object') {
    if ('delayMs' in behaviour && !(await stays(response, behaviour.delayMs))) return
    if ('status' in behaviour) {
      status = behaviour.status
      if (behaviour.retryAfter !== undefined) response.setHeader('retry-after', behaviour.retryAfter)
    }
  }
  // An empty message of protobuf, Export…ServiceResponse or Status alike, has no bytes.
  const body = contentType === 'application/json' ? '{}' : ''
  response.writeHead(status, { 'content-type': contentType, 'content-length': body.length }).end(body)
}

/** False when the client left meanwhile, or the sink was closed. */
async function stays(response: ServerResponse, ms: number): Promise<boolean> {
  if (response.closed) return false
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  return delay(ms, true, { signal: gone.signal }).catch(() => false)
}

/** @throws {TypeError} for what is none */
export function checkBehaviour(behaviour: OtlpBehaviour): void {
  if (typeof behaviour === 'string' && ['take', 'stall', 'reset', 'refuse'].includes(behaviour)) return
  if (typeof behaviour === 'object' && behaviour !== null) {
    if ('delayMs' in behaviour && behaviour.delayMs >= 0 && behaviour.delayMs < 2 ** 31) return
    if ('status' in behaviour && Number.isInteger(behaviour.status) && behaviour.status >= 300 && behaviour.status < 600) return
  }
  throw new TypeError("behaviour must be 'take', 'stall', 'reset', 'refuse', { delayMs } or { status: 300 to 599, retryAfter? }")
}
