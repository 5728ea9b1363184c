import type { Provider, Send } from '@millrace/core'
import { Answer, type Heads } from './answer.ts'
import type { Dialect } from './dialect.ts'

/**
 * Turns a dialect and a `Send` into a provider: request checks, content clocks, errors and the reading of both shapes.
 * Reads are batched: all events of one socket read are parsed in one go and handed out without further promises of ours.
 */
export function httpProvider(dialect: Dialect, send: Send): Provider {
  const plain = Object.freeze({ ...dialect.headers, 'content-type': 'application/json' })
  const heads: Heads = { plain, stream: Object.freeze({ ...plain, accept: 'text/event-stream' }) }
  return (request, options) => ({ [Symbol.asyncIterator]: () => new Answer(dialect, heads, send, request, options) })
}
