import { MillraceError } from '@millrace/core'
import { toSSEResponse } from '@millrace/streaming'
import { type Context, Hono } from 'hono'
import type { GatewayEnv, Parts } from './context.ts'
import { report } from './report-error.ts'

/** Going on with a stream whose connection broke, and stopping one, wherever it runs. */
export function streamRoutes({ streams, streamIds, config }: Parts): Hono<GatewayEnv> {
  const app = new Hono<GatewayEnv>()

  app.get('/v1/streams/:id', async (context) => {
    const id = own(context)
    const place = context.req.header('last-event-id') ?? context.req.query('last-event-id') ?? id
    if (place !== id && !place.startsWith(`${id}/`)) throw unknown()
    const { signal } = context.req.raw
    const events = await streams.resume(place, { signal })
    if (events.ended) return context.body(null, 204)
    return toSSEResponse(events, {
      signal,
      headWithinMs: 0,
      maxDurationMs: config.streamMs,
      headers: { 'x-millrace-stream-id': id },
      onError: (error) => report(context, error)
    })
  })

  app.delete('/v1/streams/:id', async (context) => {
    const id = own(context)
    return context.json({ id, object: 'stream.cancelled', cancelled: await streams.cancel(id) })
  })

  /** The operator may see all streams; a tenant its own. What is another's looks as what is not there. */
  function own(context: Context<GatewayEnv>): string {
    const id = context.req.param('id') ?? ''
    const { isOperator, tenant } = context.get('caller')
    if (isOperator || streamIds.belongs(id, tenant)) return id
    throw unknown()
  }

  return app
}

function unknown(): MillraceError<'invalid-request'> {
  const text = 'there is no such stream, or it has expired: begin a new one'
  return new MillraceError('invalid-request', text, { details: { status: 404, path: 'id' } })
}
