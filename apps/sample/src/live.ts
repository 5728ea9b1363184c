import { Hono } from 'hono'
import type { GatewayEnv, Parts } from './context.ts'
import { createFrames } from './live-frames.ts'
import { gatewayVersion, replicaName, takeSnapshot } from './snapshot.ts'

/** What the gateway is doing: `/v1/stats` tells it once, `/v1/live` once a second. */
export function liveRoutes(parts: Parts): Hono<GatewayEnv> {
  const { adapter, streams, admission, recorder } = parts
  const app = new Hono<GatewayEnv>()
  const replica = replicaName()
  const version = gatewayVersion()
  const frames = createFrames(
    async () => `event: snapshot\ndata: ${JSON.stringify(await takeSnapshot(parts, { replica, version }))}\n\n`,
    parts.isClosing
  )

  app.get('/v1/stats', (context) =>
    context.json({
      ...adapter.stats(),
      streams: streams.stats(),
      requests: admission.stats(),
      recorder: { failures: recorder.failures },
      replica,
      model: parts.config.model
    })
  )

  app.get('/v1/live', (context) =>
    context.body(frames.follow(context.req.raw.signal), 200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store, no-transform',
      'x-accel-buffering': 'no'
    })
  )
  return app
}
